"""What the tests of recovery share."""

import pytest

from quantree.encodings import Compressed
from quantree.model import Model
from quantree.recovery import Training, fit
from tests.nets import digits, mlp


@pytest.fixture(scope="package")
def baseline() -> Model:
    """A small network that has been trained on digits."""
    model = mlp()
    training = Training(epochs=8, batch_size=64, learning_rate=0.02)
    fitted = fit(Compressed.from_model(model), model=model, data=digits(), training=training, seed=0)
    return Model(fitted.compressed.decode(), {}, model.apply)
