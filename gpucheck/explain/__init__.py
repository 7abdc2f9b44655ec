"""Explains a rule, a family of rules, an Xid, an error code, or an error that somebody pasted."""

import re
from difflib import get_close_matches

from gpucheck.explain.rules import page_of_family, page_of_rule, rule_list
from gpucheck.site_rules import every_rule
from gpucheck.usage_error import UsageError

__all__ = ["USAGE", "explanation", "rule_list"]

#: What `gpucheck explain` says where it is given nothing.
USAGE = """\
Give it what you want explained:

  gpucheck explain DRV006                        a rule that the doctor reported
  gpucheck explain GPU                           a family of rules
  gpucheck explain "Xid 79"                      an Xid, or a whole line of the kernel log
  gpucheck explain "error 802"                   an error code of CUDA or NVML, or its name
  gpucheck explain "libcudnn.so.9: cannot open"  an error message, as it was printed
  python train.py 2>&1 | gpucheck explain -      a whole output: the decisive line is found
  sudo dmesg | gpucheck explain -
  gpucheck explain --list                        every rule
"""

_RULE = re.compile("[A-Z]{2,4}[0-9]{1,4}|[A-Z]{3}")
_RULE_IN_TEXT = re.compile(r"\b[A-Z]{3}[0-9]{3}\b")
_NAME = re.compile("(?:CUDA_ERROR_|CUDAERROR|NVML_ERROR_)[A-Z0-9_]*")


def explanation(what: str, *, width: int = 80, as_root: bool = False) -> str:
    """Return what there is to say about *what*: a code, a family, or an error text.

    *as_root* leaves out `sudo`. Raises `UsageError` where nothing is known of it.
    """
    name = what.strip().upper()
    if not name:
        raise UsageError("there is no text to explain")
    by_code = {rule.code: rule for rule in every_rule()}
    if name in by_code:
        return page_of_rule(by_code[name], width)
    if any(rule.family == name for rule in by_code.values()):
        return page_of_family(name)
    # Not above: a page of a rule needs none of it.
    from gpucheck.explain.page import joined
    from gpucheck.explain.pasted import pages

    found = pages(what)
    if found:
        return joined(found, width, as_root=as_root)
    mentioned = dict.fromkeys(code for code in _RULE_IN_TEXT.findall(what) if code in by_code)
    if mentioned:
        return "\n----\n\n".join(page_of_rule(by_code[code], width) for code in mentioned)
    raise UsageError(_unknown(name, tuple(by_code)))


def _unknown(name: str, rule_codes: tuple[str, ...]) -> str:
    """Say in one line that nothing is known of *name*, and what to do now."""
    if _RULE.fullmatch(name):
        return f"no rule is called {name}{_near(name, rule_codes)} (gpucheck explain --list)"
    if _NAME.fullmatch(name):
        from gpucheck.knowledge import cuda_errors

        names = cuda_errors.table().names
        known = (*(row.name or row.runtime_name or "" for row in names), *cuda_errors.nvml_codes())
        return f"no error code is called {name}{_near(name, known)}"
    if re.fullmatch(r"[\w ]{0,12}?\d+", name):
        return f"no error code and no Xid has this number: {name.lower()}"
    return (
        "gpucheck knows no error in this text; run `gpucheck doctor` on the machine that it comes "
        "from, and look for the first error before it (sudo dmesg | grep -iE 'nvrm|xid')"
    )


def _near(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
