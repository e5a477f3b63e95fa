"""Dashboards that people made in the browser."""

from pathlib import Path
from typing import ClassVar

from almenara.config import DashboardSettings
from almenara.security.identity import Identity
from almenara.web.saved_items import SavedItem, SavedItems, Share


class SavedDashboard(SavedItem, frozen=True, kw_only=True):
    """A version of a dashboard."""

    TABLE: ClassVar[str] = "versions"
    NOUN: ClassVar[str] = "dashboard"

    settings: DashboardSettings

    @property
    def name(self) -> str:
        """Its name in the address."""
        return self.settings.name


class SavedDashboards(SavedItems[SavedDashboard]):
    """The saved dashboards."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SavedDashboard)

    async def save(
        self, settings: DashboardSettings, identity: Identity, share: Share, version: int
    ) -> SavedDashboard:
        """Store a version of a dashboard; see `store`."""
        return await self.store(SavedDashboard(settings=settings, share=share), identity, version)
