"""What `almenara doctor` reports about plugins: findings, and requirements that are not met."""

from collections.abc import Sequence

from almenara.config import Settings
from almenara.errors import describe_error
from almenara.hookspecs import Finding, Requirement
from almenara.plugins.registry import PluginRegistry


async def diagnose(plugins: PluginRegistry, settings: Settings) -> list[Finding]:
    """The findings of every plugin; one that fails to diagnose is a finding itself."""
    findings = [
        Finding(
            check=f"plugin {info.name}",
            verdict="failed",
            message=info.error or "",
            remedy="Fix or update it, or name it in plugins.disabled.",
        )
        for info in plugins.infos()
        if info.state == "failed"
    ]
    for name in plugins.modules:
        try:
            findings += await plugins.hooks.diagnose(name, plugins.settings(name, settings))
        except Exception as error:
            findings.append(
                Finding(
                    check=f"plugin {name}",
                    verdict="failed",
                    message=f"its diagnosis failed: {describe_error(error, with_type=True)}",
                    remedy="Report this to the author of the plugin.",
                )
            )
    return findings + await _review(plugins, settings)


async def _review(plugins: PluginRegistry, settings: Settings) -> list[Finding]:
    """Whether the requirements of all plugins are met, system by system."""
    try:
        requirements = plugins.requirements(settings)
    except Exception as error:
        message = f"they cannot be read: {describe_error(error, with_type=True)}"
        return [Finding(check="requirements", verdict="warning", message=message)]
    findings: list[Finding] = []
    for system in dict.fromkeys(requirement.system for requirement in requirements):
        own = [requirement for requirement in requirements if requirement.system == system]
        findings += await _review_system(plugins, system, own)
    return findings


async def _review_system(
    plugins: PluginRegistry, system: str, requirements: Sequence[Requirement]
) -> list[Finding]:
    check = f"{system} permissions"
    try:
        for name in plugins.modules:
            findings = await plugins.hooks.review(name, requirements)
            if findings is not None:
                return findings
    except Exception as error:
        message = f"the review failed: {describe_error(error, with_type=True)}"
        return [Finding(check=check, verdict="warning", message=message)]
    return [
        Finding(
            check=check,
            verdict="warning",
            message=f"{len(requirements)} are needed; no active plugin can review them",
            remedy=f"Enable the plugin for {system}.",
        )
    ]
