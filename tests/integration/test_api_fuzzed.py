"""The API as its OpenAPI document says, asked with what is generated from it, by every role."""

import json
import os
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import checks as openapi

EXAMPLES = int(os.environ.get("ALMENARA_FUZZ_EXAMPLES", "10"))
