"""Turns paths of any bytes into text that can be stored."""


def readable(text: str) -> str:
    """Return a path as text that can be written as JSON: bytes that are not UTF-8 become "?"."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
