"""A dataset that scripts which train can be run on in this process."""

import pytest


@pytest.fixture
def planned_dataset(make_workspace, monkeypatch) -> None:
    """nnU-Net's variables name a workspace with dataset 1, planned; scripts may change them."""
    variables = {**make_workspace().environment, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
