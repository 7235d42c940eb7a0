"""Drawings (SVG): what is known to draw is taken over, and nothing that leads out of them (pure)."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.parsers import expat

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_XML = "http://www.w3.org/XML/1998/namespace"
_NAMES = """
svg g defs symbol use switch a title desc style path rect circle ellipse line polyline polygon text tspan textPath image
marker clipPath mask pattern linearGradient radialGradient stop view filter feBlend feColorMatrix feComponentTransfer
feComposite feConvolveMatrix feDiffuseLighting feDisplacementMap feDistantLight feDropShadow feFlood feFuncA feFuncB
feFuncG feFuncR feGaussianBlur feImage feMerge feMergeNode feMorphology feOffset fePointLight feSpecularLighting
feSpotLight feTile feTurbulence
"""
_KNOWN = frozenset(f"{{{_SVG}}}{name}" for name in _NAMES.split())
"""Elements of SVG 1.1 that draw: no script, no foreignObject, no animation, nothing of other vocabularies."""
_HREF = ("href", f"{{{_XLINK}}}href")
_OTHERS = (f"{{{_XML}}}space", f"{{{_XML}}}lang")
_INSIDE = re.compile(r"#[^\s]*|data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_URL = re.compile(r"url\s*\(\s*([\"']?)(?P<to>[^\"')]*)\1\s*\)", re.IGNORECASE)
_LEADS_OUT = re.compile(r"url\s*\(|\bsrc\s*\(|image(-set)?\s*\(|\\", re.IGNORECASE)
_DEEPEST = 200


class DrawingError(ValueError):
    """A drawing that isn't taken; the words say why."""


def plain(data: bytes) -> bytes:
    """A drawing with what draws alone.

    Args:
        data: an SVG document; its document type, if it names one, is left out and never read.

    Raises:
        DrawingError: it is no drawing, refers to something outside itself, or defines entities.
    """
    root = _read(data)
    if root.tag != f"{{{_SVG}}}svg":
        raise DrawingError("no drawing that is known here")
    _keep(root, 0)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _read(data: bytes) -> ElementTree.Element:
    """The tree, built by handlers of our own: no entity is defined, no other document is read."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")

    def begun(name: str, attributes: dict[str, str]) -> None:
        builder.start(_braced(name), {_braced(key): value for key, value in attributes.items()})

    def entity(*_: object) -> None:
        raise DrawingError("a drawing that defines entities")

    parser.StartElementHandler = begun
    parser.EndElementHandler = lambda name: builder.end(_braced(name))
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = entity
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, DrawingError):
            raise
        raise DrawingError(f"broken: {error}") from error


def _braced(name: str) -> str:
    return "{" + name if "}" in name else name


def _keep(node: ElementTree.Element, depth: int) -> None:
    """Leave out, below a node that is kept and in it, what isn't known."""
    if depth > _DEEPEST:
        raise DrawingError("a drawing that is nested too deeply")
    for name, value in list(node.attrib.items()):
        if not _fits(name, value):
            del node.attrib[name]
    if node.tag == f"{{{_SVG}}}style":
        _require_inside((node.text or "").replace("@", "\\"))  # @import, @font-face and the like: nothing of the kind
    for inner in list(node):
        if inner.tag in _KNOWN:
            _keep(inner, depth + 1)
        else:
            node.remove(inner)


def _fits(name: str, value: str) -> bool:
    """Whether an attribute is kept; raises when it leads out."""
    if name in _HREF:
        if not _INSIDE.fullmatch(value.strip()):
            raise DrawingError("a drawing that refers to something outside itself")
        return True
    if name.startswith("{"):
        return name in _OTHERS
    if name.lower().startswith("on"):
        return False
    _require_inside(value)
    return True


def _require_inside(style: str) -> None:
    """See that a style, or an attribute that may be one, refers to nothing but parts of the drawing."""
    left = _URL.sub(lambda found: "" if _INSIDE.fullmatch(found["to"].strip()) else found[0], style)
    if _LEADS_OUT.search(left):
        raise DrawingError("a drawing that refers to something outside itself")
