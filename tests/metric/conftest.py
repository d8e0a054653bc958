from __future__ import annotations

import pytest

from diffusion_train.metric.extractor import EfficientNetLite0


@pytest.fixture(scope="session")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0()
