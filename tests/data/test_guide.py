"""The guide to one's own data says of every reader and converter what it takes, and nothing of others."""

import re
from pathlib import Path

from vaekit.data.axes import LAYOUTS
from vaekit.data.readers import converters, readers
from vaekit.data.row_file import MOST_IN_MEMORY

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "your-data.md"


def test_the_table_of_sources_is_the_registry():
    text = PAGE.read_text(encoding="utf-8").partition("<!-- sources")[2]
    table = re.search(r"\n\n\| what \|.*?\n\|[-|]+\n((?:\|.*\n)+)", text)[1]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    registered = [one for one in (*readers, *converters) if one.function.__module__.startswith("vaekit.")]
    expected = {one.what: [", ".join(one.options), one.extra] for one in registered}
    assert {row[0]: row[1:3] for row in rows} == expected
    assert all(len(row) == 4 and row[3] for row in rows)
    assert len(rows) == len(registered)


def test_layouts_and_sizes_are_those_of_the_library():
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r'"(N[CHWL]+)"', text)) == set(LAYOUTS) - {"auto"}
    assert set(re.findall(r"above (\d+) MiB", text)) == {str(MOST_IN_MEMORY >> 20), "256"}
