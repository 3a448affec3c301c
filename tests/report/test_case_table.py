"""The table of cases: columns, order, marks, and how wide it may become."""

from nnunetv2_cfnet.report import case_table as module
from nnunetv2_cfnet.report.case_table import case_table

CORE, WHOLE = {"dice": [0.9, 0.5]}, {"dice": [1.0, 0.7]}
OTHER = {"core": {"dice": [0.8, 0.6]}, "whole": {"dice": [1.0, 0.5]}}


def test_each_region_has_every_model_and_the_differences(make_model):
    models = [make_model("A", {"core": CORE, "whole": WHOLE}), make_model("B", OTHER)]
    made = case_table(models, ["whole", "core"], {"case_1": "worst"})
    assert made.table.groups == [("", 1), ("mean of regions", 3), ("whole", 3), ("core", 3)]
    assert made.table.header == ("case", *("A", "B", "difference") * 3)
    assert made.table.rows == [
        ("case_1", "0.600", "0.550", "+0.050", "0.700", "0.500", "+0.200", "0.500", "0.600", "−0.100"),
        ("case_0", "0.950", "0.900", "+0.050", "1.000", "1.000", "0.000", "0.900", "0.800", "+0.100"),
    ]
    assert (made.cases, made.marks) == (["case_1", "case_0"], ["worst", ""])


def test_one_region_of_one_model_is_one_column(make_model):
    made = case_table([make_model("A", {"core": CORE})], ["core"], {})
    assert made.table.groups == [("", 1), ("core", 1)]
    assert made.table.rows[0] == ("case_1", "0.500")


def test_differences_are_named_where_there_are_several(make_model):
    models = [make_model(name, {"core": CORE}) for name in "ABC"]
    assert case_table(models, ["core"], {}).table.header == ("case", "A", "B", "C", "minus B", "minus C")


def test_regions_are_left_out_where_there_would_be_too_many_cells(make_model, monkeypatch):
    models = [make_model("A", {"core": CORE, "whole": WHOLE}), make_model("B", OTHER)]
    monkeypatch.setattr(module, "MAX_CELLS", 17)  # 2 cases, 3 groups of 3 columns: 18
    assert case_table(models, ["whole", "core"], {}).table.groups == [("", 1), ("mean of regions", 3)]
