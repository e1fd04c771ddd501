"""Parameters that change while the node is configured: checked before they are taken, models loaded beside."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from stmem_ros.node.model import Loader, Model, check, reason
from stmem_ros.node.parameters import BY_NAME, READ_AT_START, check_choice
from stmem_ros.node.settings import ModelSettings, group, read_values, value_of
from stmem_ros.node.stream import enabled_names

if TYPE_CHECKING:
    from stmem_ros.node.segmentation_node import SegmentationNode


class LiveParameters:
    """Says yes or no to each change, and acts on it.

    A model that was asked for is loaded in a thread and waits for `take_model`. Where it cannot be loaded the
    parameters go back to what runs, and `model_failure` says why until another one succeeds.
    """

    def __init__(self, node: SegmentationNode) -> None:
        self._node = node
        self._loader = Loader(
            self._loaded, self._failed, lambda: {stream.size for stream in node.streams if stream.size is not None}
        )
        self._lock = threading.Lock()
        self._ready: Model | None = None
        # What `take_model` gave last; None while the node runs the model that it was configured with.
        self._taken: Model | None = None
        self._reverting = False
        self.model_failure = ""
        self._reverts = node.create_guard_condition(self._revert)
        self._arrived = node.create_guard_condition(node.model_ready)
        node.add_on_set_parameters_callback(self._check)

    @property
    def loading(self) -> ModelSettings | None:
        return self._loader.wanted

    @property
    def busy(self) -> bool:
        return self._loader.busy

    def take_model(self) -> Model | None:
        """The model that was loaded since the last call."""
        with self._lock:
            model, self._ready = self._ready, None
            self._taken = model or self._taken
        return model

    def close(self) -> None:
        """Load nothing more, and throw away what waits."""
        self._loader.close()
        with self._lock:
            self._ready = self._taken = None

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        node = self._node
        try:
            for parameter in parameters:
                check_choice(parameter.name, parameter.value)
                self._require_free(parameter)
            for parameter in parameters:
                node.unusable.pop(parameter.name, None)
            if node.model is None:
                # The rest is checked when the node is configured.
                return SetParametersResult(successful=True)
            values = read_values(node, parameters)
            names = [parameter.name for parameter in parameters if parameter.name in BY_NAME]
            settings = None
            if any(BY_NAME[name].of_model for name in names) and not self._reverting:
                settings = group(ModelSettings, values)
                check(settings)
            if "enabled_cameras" in names:
                enabled_names(node.streams, values["enabled_cameras"])
        except Exception as error:
            # Also what a file system says of a path: whatever left this callback would end the node.
            return SetParametersResult(successful=False, reason=reason(error))
        # Nothing can fail any more.
        if settings is not None:
            self._want(settings)
        if "enabled_cameras" in names:
            node.enable_cameras(values["enabled_cameras"])
        return SetParametersResult(successful=True)

    def _want(self, settings: ModelSettings) -> None:
        """Load a model, unless it is the one that runs, waits or is being loaded."""
        node = self._node
        if settings == self._loader.wanted:
            return
        # From here on no other model becomes ready.
        self._loader.ask(None)
        with self._lock:
            running = self._taken or node.model
            if self._ready is None or not self._ready.is_made_of(settings):
                there = running is not None and running.is_made_of(settings)
                self._ready = None if there else self._ready
            else:
                there = True
        if there:
            self.model_failure = ""
            node.debug(lambda: f"the model is loaded already ({settings.line()})")
            return
        node.info(f"loading {settings.line()} beside the model that runs")
        self._loader.ask(settings)

    def _require_free(self, parameter: Parameter) -> None:
        """Raises ValueError where it is fixed and would change."""
        name, declared = parameter.name, BY_NAME.get(parameter.name)
        if declared is None or not declared.fixed or parameter.value == value_of(self._node, name):
            return
        if declared.fixed == READ_AT_START:
            raise ValueError(f"{name} cannot change any more, {declared.fixed}: start the node with another value")
        if self._node.model is not None:
            raise ValueError(f"{name} cannot change now, {declared.fixed}: clean the node up first")

    # Loader's thread

    def _loaded(self, model: Model) -> None:
        with self._lock:
            self._ready = model
        self.model_failure = ""
        self._arrived.trigger()

    def _failed(self, settings: ModelSettings, why: str) -> None:
        self.model_failure = f"model {settings.checkpoint or 'of the package'} was not taken: {why}"
        self._node.get_logger().error(self.model_failure)
        self._reverts.trigger()

    # Executor thread

    def _revert(self) -> None:
        model = self._node.model
        if model is None or self._loader.wanted is not None:
            return
        running = self._ready or model
        self._reverting = True
        try:
            names = [name for name, parameter in BY_NAME.items() if parameter.of_model]
            values = [Parameter(name, value=getattr(running.settings, name)) for name in names]
            self._node.set_parameters_atomically(values)
        finally:
            self._reverting = False
