"""Confusions, counted by hand."""

from crnn_jax.text.confusions import confusions, describe


def test_confusions_counted_by_hand() -> None:
    read_and_written = [
        ("o1", "01"),  # 0 as o
        ("oo0", "000"),  # 0 as o, twice
        ("abc", "ABc"),  # case is a difference
        ("hllo", "hello"),  # e left out
        ("worlds", "world"),  # s put in
        ("same", "same"),
        ("", "e"),
    ]
    counts = confusions(read_and_written)
    assert counts == {
        **{("0", "o"): 3, ("A", "a"): 1, ("B", "b"): 1},
        **{("e", ""): 2, ("", "s"): 1},
    }
    assert describe(counts, 2) == "0 as o 3, e left out 2"
    assert "s put in 1" in describe(counts, 10).split(", ")


def test_code_points_are_characters() -> None:
    assert confusions([("中国𠀋", "中文𠀀")]) == {("文", "国"): 1, ("𠀀", "𠀋"): 1}
