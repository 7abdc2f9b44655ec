"""One row for each family of rules: its prefix, its subject, where its findings are shown.

The rows are in the order in which a machine comes up: of two equal faults, the earlier is to be
fixed first, and the report's sections follow it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Rules whose codes share a prefix."""

    prefix: str  # "GPU"
    title: str  # what the rules judge: "each GPU's health"
    section: str  # of the report: "GPUs"


FAMILIES: tuple[Family, ...] = (
    Family(prefix="HST", title="the host", section="Host"),
    Family(prefix="DRV", title="driver, kernel modules, devices", section="Driver"),
    Family(prefix="GPU", title="each GPU's health", section="GPUs"),
    Family(prefix="LNK", title="PCIe, NVLink, peer-to-peer", section="Multi-GPU"),
    Family(prefix="LIB", title="which libraries would be loaded", section="Libraries"),
    Family(prefix="DNN", title="cuDNN", section="cuDNN"),
    Family(prefix="TOR", title="PyTorch", section="Frameworks"),
    Family(prefix="PKG", title="GPU packages of the Python environment", section="Frameworks"),
    Family(prefix="CUD", title="CUDA toolkits", section="CUDA"),
    Family(
        prefix="ENV", title="environment variables and shell start-up files", section="Environment"
    ),
    Family(prefix="TRN", title="the smoke training", section="Training"),
    Family(prefix="PRF", title="measured performance", section="Performance"),
    Family(prefix="BRN", title="burn-in", section="Burn-in"),
    Family(prefix="FLT", title="a fleet of machines", section="Fleet"),
    Family(prefix="SIT", title="a site's own rules and probes", section="Site"),
)
#: Of the codes that a site gave its own rules, too: their prefixes are no row of the table.
SITE = FAMILIES[-1]
#: The report's sections, in the order of the table; some show more than one family.
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(family.section for family in FAMILIES))
_BY_PREFIX = {family.prefix: family for family in FAMILIES}
_DEPTHS = {family.prefix: depth for depth, family in enumerate(FAMILIES)}


def family_of(code: str) -> Family:
    """Return the family of a rule's *code*: a prefix that the table does not have is a site's."""
    return _BY_PREFIX.get(code[:3], SITE)


def section_of(code: str) -> str:
    """Return the section of the report that shows the findings of *code*."""
    return family_of(code).section


def prefixes_of(section: str) -> tuple[str, ...]:
    """Return the prefixes of the families that a *section* of the report shows."""
    return tuple(family.prefix for family in FAMILIES if family.section == section)


def depth(code: str) -> int:
    """Return how early in a machine's start the matter of *code* comes; smaller is deeper."""
    return _DEPTHS.get(code[:3], len(_DEPTHS))
