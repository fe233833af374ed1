# SPDX-License-Identifier: AGPL-3.0-or-later
"""A store over an empty base folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.media.store import MediaStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MediaStore]:
    opened = MediaStore(tmp_path)
    yield opened
    opened.close()
