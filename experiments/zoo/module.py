"""A Flax class of the user's own, as it is, from a file that the config names under `plugins`."""

import inspect
import json
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from experiments.plugins import PREFIX
from experiments.zoo.network import Network
from quantree.errors import ConfigError, nearest
from quantree.model import Model
from quantree.registry import register

with warnings.catch_warnings():
    # The class is called `module`, by which configs know it; an instance is called like the user's class, in results.
    warnings.filterwarnings("ignore", 'Field name "name"', UserWarning)

    @register("module")
    class Outside(Network):
        """A class in one of the files that `plugins` names, `nnx.Module` or `linen.Module`.

        Built as `Net(**arguments, rngs=rngs)`, or in Linen `Net(**arguments)` and then `init` on zeros of the data's
        shape. Neither the number of classes nor the shape of the data is told to it: they stand among the arguments.
        """

        name: str = Field(description="name of the class")  # pyright: ignore[reportIncompatibleVariableOverride]
        arguments: dict[str, Any] = Field({}, description="keyword arguments of the class")
        source: str = Field("", description="start of the SHA-256 of the file that defines the class; filled in")

        def __hash__(self) -> int:
            return hash(json.dumps(self.to_config(), sort_keys=True))

        @model_validator(mode="before")
        @classmethod
        def _locate(cls, value: Any) -> Any:
            # Once, when the config is read: a worker, or a later reader, then asks for this very file.
            if not isinstance(value, Mapping) or value.get("source") or not isinstance(value.get("name"), str):
                return value
            try:
                return {**value, "source": _find(value["name"]).__name__.removeprefix(PREFIX)}
            except ConfigError as error:
                raise PydanticCustomError("plugin", "{reason}", {"reason": str(error), "key": "name"}) from None

        @property
        def modules(self) -> frozenset[str]:
            """See `Network.modules`."""
            return frozenset({PREFIX + self.source})

        def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module | linen.Module:
            """See `Network.build`."""
            del shape, classes
            found = sys.modules.get(PREFIX + self.source)
            if found is None:
                raise ConfigError(f"the file that defines {self.name!r} (SHA-256 {self.source}...) is not imported")
            network = _networks(found)[self.name]
            given = dict(self.arguments)
            if issubclass(network, nnx.Module):
                if "rngs" in given:
                    raise ConfigError(f"{self.name}: `rngs` is given by the sweep, from its seed")
                given["rngs"] = rngs
            self._check_arguments(network, given)
            return network(**given)

        def model(self, seed: int, shape: tuple[int, ...], classes: int) -> Model:
            """See `Network.model`; `ConfigError` if the class fails, or gives anything but logits [n, classes]."""
            try:
                model = super().model(seed, shape, classes)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f"{self._call()} can't be built: {_told(error)}") from error
            assert model.apply is not None
            try:
                inputs = jnp.zeros((2, *shape), jnp.float32)
                outputs, _ = jax.eval_shape(model.apply, model.params, model.state, inputs)
            except Exception as error:
                raise ConfigError(f"{self._call()} fails on inputs [n, {_sizes(shape)}]: {_told(error)}") from error
            got = f"[{_sizes(outputs.shape)}]" if hasattr(outputs, "shape") else f"a {type(outputs).__name__}"
            if got != f"[2, {classes}]":
                raise ConfigError(f"{self._call()} gives {got} for 2 inputs; the data want logits [2, {classes}]")
            return model

        def _check_arguments(self, network: type[Any], given: Mapping[str, Any]) -> None:
            signature = inspect.signature(network.__init__)  # nnx hides that of the class
            ours = {"self"} if issubclass(network, nnx.Module) else {"self", "parent", "name"}
            known = [name for name in signature.parameters if name not in ours]
            try:
                signature.bind(None, **given)
            except TypeError as error:
                unknown = next((name for name in given if name not in known), None)
                if unknown is not None:
                    missing = [name for name in known if name not in given]
                    reason = f"unknown argument {unknown!r}; {nearest(unknown, missing or known)}"
                else:
                    reason = f"{error}; known: {', '.join(known)}"
                raise ConfigError(f"{self.name}: {reason}") from None

        def _call(self) -> str:
            return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def _find(name: str) -> ModuleType:
    """The plug-in file that defines this class, and was read last; `ConfigError` with the nearest name."""
    files = [module for key, module in sys.modules.items() if key.startswith(PREFIX)]
    for module in reversed(files):
        if name in _networks(module):
            return module
    if not files:
        raise ConfigError(f"the class {name!r} must stand in a file that `plugins` names, and it names none")
    here = ", ".join(sorted({str(module.__file__).rpartition("/")[2] for module in files}))
    imported = next((getattr(module, name) for module in files if hasattr(module, name)), None)
    if inspect.isclass(imported):
        raise ConfigError(
            f"{name!r} is no Flax module that {here} defines (it is {imported.__module__}.{imported.__qualname__}); "
            "name the file that defines it under `plugins`, or subclass it"
        )
    known = [each for module in files for each in _networks(module)]
    raise ConfigError(f"no class {name!r} in the plug-in files ({here}); {nearest(name, known)}")


def _networks(module: ModuleType) -> dict[str, type[Any]]:
    """The Flax modules that a file defines. Those that it imports are not its own: their source names no trial."""
    return {
        name: each
        for name, each in vars(module).items()
        if inspect.isclass(each) and issubclass(each, nnx.Module | linen.Module) and each.__module__ == module.__name__
    }


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _told(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"
