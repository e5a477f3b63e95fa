"""What tests share: real servers, faults on the wire, and hostile input."""
