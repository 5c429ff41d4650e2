"""CSV text: whatever a name holds, a reader gets it back."""

import csv
import io

from hypothesis import example, given
from hypothesis import strategies as st

from regraft.core.csv_text import as_csv

cells = st.text(st.sampled_from("ab,;\"'\t\r\n =\u2028\x85\0"), max_size=6)


@given(st.lists(st.lists(cells, min_size=1, max_size=3), max_size=4))
@example([["a\rb", "red"], ["c", "d"]])  # a CR that was not quoted ended the row
def test_every_table_is_read_back(rows):
    assert list(csv.reader(io.StringIO(as_csv(rows), newline=""), strict=True)) == rows


def test_lines_end_as_they_always_did():
    assert as_csv([("id", "p"), ("a b", 0.5), ("ä", None)]) == "id,p\na b,0.5\nä,\n"
