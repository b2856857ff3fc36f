"""Zip packages of XML (DOCX, EPUB): members of bounded size, XML without entities."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Any

from lxml import etree

from headwater.data_pipeline.formats.result import Unconvertible

MAX_MEMBERS = 20_000
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
    KeyError,
    RuntimeError,
)
"""Exceptions of zipfile for damaged files; RuntimeError for an encrypted member."""
DOCTYPE_REACH = 4096


class Package:
    """A zip file. All that is read from it counts towards `max_bytes`. Raises Unconvertible: broken_zip,
    encrypted, too_large, too_many_members, broken_xml, forbidden_entities, missing_member."""

    def __init__(self, content: bytes, max_bytes: int) -> None:
        self._left, self._max = max_bytes, max_bytes
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except DAMAGE as error:
            raise Unconvertible("broken_zip", str(error)) from error
        if len(self._zip.filelist) > MAX_MEMBERS:
            raise Unconvertible("too_many_members", f"more than {MAX_MEMBERS:,}")

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def read(self, name: str) -> bytes:
        """A member, by its path in the package."""
        info = self._zip.NameToInfo.get(name)
        if info is None:
            raise Unconvertible("missing_member", name)
        if info.flag_bits & 1:
            raise Unconvertible("encrypted", f"the member {name} has a password")
        try:
            with self._zip.open(info) as member:
                content = member.read(self._left + 1)
        except DAMAGE as error:
            raise Unconvertible("broken_zip", f"{name}: {error}") from error
        self._left -= len(content)
        if self._left < 0:
            raise Unconvertible("too_large", f"more than {self._max:,} bytes when unpacked")
        return content

    def xml(self, name: str) -> Any:
        """The root element of a member."""
        content = self.read(name)
        if b"<!ENTITY" in content[:DOCTYPE_REACH].replace(b"\0", b""):  # also in UTF-16
            raise Unconvertible("forbidden_entities", f"{name} declares entities")
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True
        )
        try:
            root = etree.fromstring(content, parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            raise Unconvertible("broken_xml", f"{name}: {error}") from error
        return root


def joined_path(folder: str, target: str) -> str:
    """The path in the package of a relative or absolute (`/word/document.xml`) reference."""
    return posixpath.normpath(posixpath.join(folder, target) if not target.startswith("/") else target[1:])
