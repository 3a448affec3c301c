"""Checkpoints of architecture version 2 stay loadable, and give what they gave."""

from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

# A model folder that `nnUNetv2_train` wrote with a narrow 3d_fullres plan of three stages (optimizer and log
# taken out), and forward.npz: an input and what the network made of it then.
MODEL = Path(__file__).parents[1] / "data" / "checkpoint_v2"


def test_version_2_checkpoint_gives_its_recorded_output():
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(MODEL), use_folds=(0,))
    with np.load(MODEL / "forward.npz") as recorded, torch.no_grad():
        output = predictor.network.eval()(torch.from_numpy(recorded["x"]))
        torch.testing.assert_close(output, torch.from_numpy(recorded["y"]), rtol=1e-4, atol=1e-4)
