"""Texts that a panel displays while they are written."""

from almenara.panels.data_view import PanelDataView
from almenara.panels.filters import PanelFilters
from almenara.panels.view import View


def read_texts(view: View, plugin: str, stream: str, filters: PanelFilters) -> dict[str, str]:
    """The texts of a stream for a panel's filters by their key, with secrets masked.

    Raises `NotFound` for a stream that does not exist.
    """
    if view.text_streams is None:
        return {}
    texts = view.text_streams.stream(plugin, stream).read(PanelDataView(view), filters.to_query())
    return {text.key: view.redact_text(text.text) for text in texts}
