"""Error codes by number and by name: CUDA's, its runtime's and NVML's."""

import re

from gpucheck.explain import messages, xids
from gpucheck.explain.page import Page
from gpucheck.knowledge import cuda_errors, error_messages
from gpucheck.knowledge.cuda_errors import ErrorCode, ErrorName
from gpucheck.knowledge.step import Step

CUDA_PAGE = "https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html"
NVML_PAGE = "https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html"

#: A text that is nothing but a number: "802", "error 802", "CUDA error: 802", "nvml 15".
_BARE = re.compile(
    r"(?P<what>cuda|cuinit|nvml|xid|sxid)?[\s_-]*(?:runtime |driver )?"
    r"(?P<word>error|err|code|status|returned|return)?[\s_-]*(?:code|value|number|nr|no)?"
    r"[\s:=#.(-]*"
    r"(?P<number>\d{1,5})[\s).:]*",
    re.IGNORECASE,
)
_NAME = re.compile(r"\b(?:CUDA_ERROR_[A-Z0-9_]+|cudaError[A-Z]\w+|NVML_ERROR_[A-Z0-9_]+)\b")
#: A number inside a longer text, where the words before it say that it is CUDA's.
_NUMBER = re.compile(
    r"(?:cuda|cuinit(?:\(0\))?|cudagetdevicecount|cuda runtime|driver)\w*[^\n\d]{0,80}?"
    r"\b(?:error(?: code)?|err|failed|failure|code|returned)[\s:=#(]{1,3}(?:with )?"
    r"(?P<number>\d{1,4})\b",
    re.IGNORECASE,
)
_SPELLED = re.compile(
    r"(?:cuda (?:runtime |driver )?error|triton error \[cuda\]|cuda failure)[:\s'\d]{0,8}"
    r"(?P<text>[^\n]{4,200})",
    re.IGNORECASE,
)
_NVML_ROWS = {row.code: row for row in cuda_errors.table().nvml}
_TEXT_PAGE_STEPS = (Step("CUDA_LAUNCH_BLOCKING=1 python your_program.py"), Step("gpucheck doctor"))


def bare(text: str) -> tuple[Page, ...]:
    """Return the pages of a *text* that is nothing but a code; () for any other text."""
    stripped = text.strip()
    name = stripped.upper()
    if name in cuda_errors.cuda_codes():
        return (_of_cuda(cuda_errors.cuda_codes()[name]),)
    if name in cuda_errors.nvml_codes():
        return (_of_nvml(cuda_errors.nvml_codes()[name]),)
    row = _spelled(stripped)
    if row is not None and (row.text or "").casefold() == stripped.casefold():
        return (_of_cuda(row.code),)
    match = _BARE.fullmatch(stripped)
    if match is None:
        return ()
    number, what = int(match["number"]), (match["what"] or "").lower()
    if what in ("xid", "sxid"):
        return ()
    if what == "nvml":
        return (_of_nvml(number),) if number in _NVML_ROWS else ()
    found = [] if cuda_errors.cuda_name(number) is None else [_of_cuda(number)]
    if not what and not match["word"] and xids.is_known(number):
        found.append(xids.page(number))
    return tuple(found)


def mentioned(text: str) -> tuple[Page, ...]:
    """Return the pages of the codes that *text* names somewhere."""
    found: dict[str, Page] = {}
    for name in _NAME.findall(text):
        upper = name.upper()
        if upper in cuda_errors.cuda_codes():
            page = _of_cuda(cuda_errors.cuda_codes()[upper])
        elif upper in cuda_errors.nvml_codes():
            page = _of_nvml(cuda_errors.nvml_codes()[upper])
        else:
            continue
        found.setdefault(page.name, page)
    for match in _NUMBER.finditer(text):
        if cuda_errors.cuda_name(int(match["number"])) is not None:
            page = _of_cuda(int(match["number"]))
            found.setdefault(page.name, page)
    for match in _SPELLED.finditer(text):
        row = _spelled(match["text"])
        if row is not None:
            page = _of_cuda(row.code)
            found.setdefault(page.name, page)
    return tuple(found.values())


def _spelled(text: str) -> ErrorName | None:
    """Return the code whose own text *text* begins with, the longest first."""
    plain = text.casefold()
    rows = [row for row in cuda_errors.table().names if row.text]
    fitting = [row for row in rows if plain.startswith((row.text or "").casefold())]
    return max(fitting, key=lambda row: len(row.text or ""), default=None)


def _of_cuda(code: int) -> Page:
    message = error_messages.of_cuda(code)
    if message is not None:
        return messages.page(message)
    row = cuda_errors.cuda_error(code)
    if row is not None:
        return _of_row(f"cuda-{code}", row, CUDA_PAGE)
    name = cuda_errors.cuda_name(code)
    names = " or ".join(each for each in (name.name, name.runtime_name) if each) if name else ""
    said = f': "{name.text}"' if name is not None and name.text else ""
    return Page(
        name=f"cuda-{code}",
        meaning=f"Error {code}, {names}{said}. A CUDA call was used in a way or in a state that "
        "CUDA does not allow; no fault of the machine is known to cause it.",
        faults=("program",),
        fix="Run once with CUDA_LAUNCH_BLOCKING=1: the traceback then shows the call.",
        steps=_TEXT_PAGE_STEPS,
        verify="the program runs through",
        link=CUDA_PAGE,
    )


def _of_nvml(code: int) -> Page:
    message = error_messages.of_nvml(code)
    if message is not None:
        return messages.page(message)
    return _of_row(f"nvml-{code}", _NVML_ROWS[code], NVML_PAGE)


def _of_row(name: str, row: ErrorCode, link: str) -> Page:
    names = " or ".join(each for each in (row.name, row.runtime_name) if each)
    return Page(
        name=name,
        meaning=f"Error {row.code}, {names}: {row.meaning}. Usual causes: {'; '.join(row.causes)}.",
        faults=row.fault,
        fix="; ".join(row.fix).capitalize().rstrip(".") + ".",
        steps=(Step("gpucheck doctor"),),
        verify="the program runs through, and gpucheck doctor finds nothing",
        link=link,
        codes=("DRV009",),
    )
