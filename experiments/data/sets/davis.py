"""DAVIS (Davis et al. 2011): binding of 68 molecules to 442 kinases, split as for DeepDTA (Ozturk et al. 2018)."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments.data.affinity import CONTENTS, Affinity, read_json
from quantree.errors import DataError
from quantree.registry import register

FILE = "davis.json"


@register("davis")
class Davis(Affinity):
    """Targets are -log10(Kd / 1e9), Kd in nM: 5 where no binding was seen (10,000 nM), more where it is strong.

    Train is the five folds for training, test the official test fold.
    """

    version = "1.0.0"
    title = "binding of 68 molecules to 442 kinases"
    sizes: ClassVar = {"train": 25_046, "test": 5_010}
    shape = (1285,)
    raw = f"{CONTENTS}, or all of it in {FILE}"
    ligand_length: ClassVar[int] = 85
    protein_length: ClassVar[int] = 1200

    def affinities(self, stored: np.ndarray) -> np.ndarray:
        """See `Affinity.affinities`."""
        if (stored <= 0).any():
            raise DataError(f"a Kd of {stored.min()} nM; each must be above zero")
        return -np.log10(stored / 1e9)

    def parts(self, raw: Path) -> dict[str, Any]:
        """See `Affinity.parts`."""
        file = next((each / FILE for each in (raw, raw / self.name) if (each / FILE).is_file()), None)
        if file is None:
            return super().parts(raw)
        parts = read_json(file, dict)
        if "Y" in parts:
            try:
                parts["Y"] = np.array(parts["Y"], np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise DataError(f"{file}: Y is no matrix of numbers: {error}") from None
        return parts
