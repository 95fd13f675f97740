"""voxfit fits a segmentation U-Net to any medical image dataset with nobody turning a knob."""
