"""Escapes for LaTeX: whatever the data hold, it is printed as it is."""

from __future__ import annotations

import re
import unicodedata

from editlab.analysis.text.wording import MINUS

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    MINUS: "$-$", "–": r"\textendash{}", "—": r"\textemdash{}", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$",
    "≤": r"$\leq$", "→": r"$\rightarrow$", "…": r"\ldots{}", "’": "'", "Δ": r"$\Delta$", "γ": r"$\gamma$",
    "λ": r"$\lambda$", "⁄": "/",
}  # fmt: skip

# Letters beyond ASCII that pdfLaTeX has in T1 fonts: Latin-1 and Latin Extended-A, with these exceptions.
LETTERS = frozenset(c for c in map(chr, range(0xC0, 0x180)) if c.isalpha()) - frozenset("ĦħĸĿŀŉŦŧſ")


def escape(text: str) -> str:
    """Text that LaTeX prints as it is: no command, no environment, no ligature, one line.

    A character that pdfLaTeX lacks becomes its plain form (``ỏ`` -> ``o``) or its code point (``[U+4E2D]``); control
    characters vanish.
    """
    flat = " ".join(str(text).split())
    return re.sub("([-,])(?=\\1)", r"\1{}", "".join(map(_character, flat)))


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    if " " <= character <= "~" or character in LETTERS:
        return character
    plain = unicodedata.normalize("NFKD", character)
    if plain != character and (reduced := "".join(_character(c) for c in plain if not unicodedata.combining(c))):
        return reduced
    return f"[U+{ord(character):04X}]" if character.isprintable() and not unicodedata.combining(character) else ""
