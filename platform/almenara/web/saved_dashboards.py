"""Dashboards that people made in the browser."""

from typing import ClassVar

from almenara.config import DashboardSettings
from almenara.security.identity import Identity
from almenara.state_store import StateStore
from almenara.web.saved_items import SavedItem, SavedItems, Share


class SavedDashboard(SavedItem, frozen=True, kw_only=True):
    """A version of a dashboard."""

    PREFIX: ClassVar[str] = "dashboard."
    NOUN: ClassVar[str] = "dashboard"

    settings: DashboardSettings

    @property
    def name(self) -> str:
        """Its name in the address."""
        return self.settings.name


class SavedDashboards(SavedItems[SavedDashboard]):
    """The saved dashboards."""

    def __init__(self, store: StateStore) -> None:
        super().__init__(store, SavedDashboard)

    async def save(
        self, settings: DashboardSettings, identity: Identity, share: Share, version: int
    ) -> SavedDashboard:
        """Store a version of a dashboard; see `store`."""
        return await self.store(SavedDashboard(settings=settings, share=share), identity, version)
