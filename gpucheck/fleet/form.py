"""The names of the formats of a fleet's report: all that the command line has to know of them."""

import enum


class FleetFormat(str, enum.Enum):
    """How to print a fleet's report."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    PROMETHEUS = "prometheus"
    JUNIT = "junit"
