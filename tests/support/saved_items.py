"""What users have saved in the browser, from its file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from almenara.state_store.file import FileStateStore
from almenara.web.saved_items import SavedItems, open_file

S = TypeVar("S", bound=SavedItems[Any])


async def open_saved(items: Callable[[FileStateStore], S], folder: Path) -> S:
    """Load the items of a type from the file in a folder."""
    saved = items(FileStateStore(open_file(folder)))
    await saved.load()
    return saved
