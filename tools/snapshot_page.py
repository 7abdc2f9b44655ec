"""Writes docs/snapshot.md: every field of the snapshot, from the types and their comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "gpucheck" / "snapshot.py"
INTRODUCTION = """\
# The snapshot, field by field

A snapshot is one object of the type [Snapshot](#snapshot): the facts of one machine, as `gpucheck
snapshot` writes them. Its JSON Schema is [snapshot-1.schema.json](snapshot-1.schema.json), with
the `$id` `urn:gpucheck:snapshot:1`; [the JSON](json.md) says what does not change.

A fact that could not be read is `{"type": "unknown", "why": …}`, whatever its type below; "or
null" means that somebody looked and it is not there, "or not supported" that this hardware or
driver has no such thing (`{"type": "not supported"}`). A fact that is left out has the default
of the schema, which for most is: unknown, not examined. Each object names its type in `type`."""

_UNITS = {
    "bytes": "in bytes",
    "celsius": "in degrees Celsius",
    "mhz": "in MHz",
    "watts": "in watts",
    "percent": "in percent",
    "seconds": "in seconds",
    "ms": "in milliseconds",
    "ns": "in nanoseconds",
}
_NAMES = {
    **{name: name.upper() for name in ("aer", "bar1", "crc", "cuda", "ecc", "gpu", "gsp", "iommu")},
    **{name: name.upper() for name in ("mig", "mps", "nccl", "numa", "pci", "sm", "sram", "uuid")},
    **{name: name.upper() for name in ("vbios", "wsl")},
    "cpus": "CPUs",
    "cudnn": "cuDNN",
    "gpus": "GPUs",
    "inforom": "InfoROM",
    "nvlink": "NVLink",
    "p2p": "peer-to-peer",
    "pcie": "PCIe",
    "vgpu": "vGPU",
}
_VERBS = ("is", "has", "can")
_PLAIN = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a type: its annotation, and what is said of it."""

    name: str
    annotation: ast.expr
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """A type of the snapshot."""

    name: str
    meaning: str
    fields: tuple[Field, ...]


def types(source: str | None = None) -> Mapping[str, Type]:
    """Return the types that *source* defines (None: snapshot.py), in its order."""
    source = SOURCE.read_text(encoding="utf-8") if source is None else source
    comments = _comments(source)
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    summaries = {node.name: ast.get_docstring(node) or "" for node in classes}
    found = {}
    for node in classes:
        lines = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        fields = tuple(_field(line, comments, summaries) for line in lines)
        if fields:
            found[node.name] = Type(name=node.name, meaning=summaries[node.name], fields=fields)
    return found


def page() -> str:
    """Return the whole page, the snapshot itself first."""
    known = dict(types())
    lines = [INTRODUCTION]
    for each in [known.pop("Snapshot"), *known.values()]:
        lines += ["", f"## {each.name}", "", _escaped(each.meaning), ""]
        lines += ["| field | is | meaning |", "|---|---|---|"]
        lines += [
            f"| `{field.name}` | {_words(field.annotation)} | {_escaped(field.meaning)} |"
            for field in each.fields
        ]
    return "\n".join(lines) + "\n"


def _field(line: ast.AnnAssign, comments: Mapping[int, str], summaries: Mapping[str, str]) -> Field:
    name = ast.unparse(line.target)
    said = comments.get(line.end_lineno or line.lineno) or " ".join(_above(line, comments))
    meaning = re.sub(r"\bNone\b", "null", said)
    if not said or said.startswith(('"', "None")):  # an example, or what null means, is not enough
        base = _of_its_type(line.annotation, summaries) or in_words(name)
        meaning = f"{base}{'; ' if said.startswith('None') else ': ' if said else ''}{meaning}"
    return Field(name=name, annotation=line.annotation, meaning=meaning)


def _of_its_type(annotation: ast.expr, summaries: Mapping[str, str]) -> str:
    """Return the first sentence on the type that *annotation* names; "" for plain values."""
    named = [each for each in _names(annotation) if each in summaries]
    first = "".join(summaries[each].partition("\n\n")[0] for each in named[:1])
    return " ".join(first.split()).partition(". ")[0].rstrip(".")


def _above(line: ast.AnnAssign, comments: Mapping[int, str]) -> list[str]:
    """Return the comment of its own lines (`#:`) right above *line*."""
    said: list[str] = []
    number = line.lineno - 1
    while (text := comments.get(-number)) is not None:
        said.insert(0, text)
        number -= 1
    return said


def _comments(source: str) -> dict[int, str]:
    """Return the comments behind code by their lines, and those alone on theirs by -line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith("# ---"):
            continue
        number, column = token.start
        is_alone = not token.line[:column].strip()
        if is_alone and not token.string.startswith("#:"):
            continue
        found[-number if is_alone else number] = token.string.lstrip("#: ").strip()
    return found


def in_words(name: str) -> str:
    """Return what a *name* says by itself: whether it is so, and in which unit."""
    words = name.split("_")
    unit = _UNITS.get(words[-1], "") if len(words) > 1 else ""
    plain = " ".join(_NAMES.get(word, word) for word in (words[:-1] if unit else words))
    if words[0] in _VERBS and len(words) > 1:
        return f"whether it {plain}"
    return f"{plain}, {unit}" if unit else plain


def _names(annotation: ast.expr) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id


def _words(annotation: ast.expr) -> str:
    """Return the type that *annotation* means, for people."""
    if isinstance(annotation, ast.Constant):
        return "null" if annotation.value is None else str(annotation.value)
    if isinstance(annotation, ast.Name):
        name = annotation.id
        return _PLAIN.get(name) or _aliases().get(name) or f"[{name}](#{name.lower()})"
    if isinstance(annotation, ast.BinOp):
        return f"{_words(annotation.left)} or {_words(annotation.right)}"
    if isinstance(annotation, ast.Subscript):
        kind = ast.unparse(annotation.value)
        inner = annotation.slice
        if kind == "Literal":
            values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return " or ".join(f"`{ast.unparse(value)}`".replace("'", '"') for value in values)
        if kind == "tuple" and isinstance(inner, ast.Tuple):
            return f"list of {_words(inner.elts[0])}"
        if kind == "Mapping" and isinstance(inner, ast.Tuple):
            return f"{_words(inner.elts[1])} by name"
        state = {"Known": "", "Maybe": " or null", "Reading": " or not supported"}[kind]
        return f"{_words(inner)}{state}"
    raise ValueError(ast.unparse(annotation))


def _aliases() -> Mapping[str, str]:
    """Return the names of Literals that the types share, in words."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    return {
        ast.unparse(node.targets[0]): _words(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Subscript)
        and ast.unparse(node.value.value) == "Literal"
    }


def _escaped(text: str) -> str:
    plain = re.sub(r"\s+", " ", text).replace("None:", "null:")
    return plain.replace("|", "\\|").replace("<", "&lt;")
