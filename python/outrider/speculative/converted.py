"""What a model of transformers becomes by a conversion: itself, with drafts and their losses."""

import inspect
import types
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from outrider.errors import OutriderError
from outrider.native import _C
from outrider.speculative import trainer_log
from outrider.speculative.base_config import base_config
from outrider.speculative.base_parts import BaseParts, base_parts, plain, require_plain_head
from outrider.speculative.base_pass import Request, run_base
from outrider.speculative.batch import Labels, train_batch
from outrider.speculative.draft_module import DraftModule, stored_bytes
from outrider.speculative.meter import Meter
from outrider.speculative.output import SpeculativeOutput

# Read here, or of no use in a pass whose head is not run.
_OWN_ARGUMENTS = ("labels", "loss_mask", "logits_to_keep", "num_items_in_batch", "return_dict",
                  "use_cache", "output_hidden_states", "return_loss")


class Owner:
    """Answers what plugins ask of a base. The model is referred to weakly: it owns what asks."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def _parts(self) -> BaseParts:
        model = self._model()
        assert model is not None
        return base_parts(model)

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        parts = self._parts()
        return plain(parts.embedding.weight).detach(), plain(parts.head.weight).detach()

    def final_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        norm = self._parts().norm
        if norm is None:
            raise OutriderError("the base's final norm cannot be found", "Unsupported")
        return norm(hidden)

    def parameter(self, name: str) -> torch.Tensor | None:
        """By the name that it has in a model of text alone; None where there is none."""
        model = self._model()
        assert model is not None
        for root, path in ((model, name), (self._parts().decoder, name.removeprefix("model."))):
            try:
                found = root.get_parameter(path)
            except AttributeError:
                continue
            return None if found.is_meta else plain(found).detach()
        return None


class ConvertedModel(nn.Module):
    """Mixed into a model's class; `cls._outrider_base_class` is what it was."""

    accepts_loss_kwargs = False  # the Trainer divides by the accumulation steps, as Outrider does
    _outrider_base_class: Any

    # Set by attach().
    _outrider: Any  # _C.ExternalModel
    _outrider_config: str
    _outrider_meters: dict[str, Meter]
    _outrider_attributes: list[str]
    _outrider_labels: Labels

    def _outrider_drafts(self) -> dict[str, DraftModule]:
        return {name: getattr(self, name) for name in self._outrider_attributes}

    def _outrider_trains_base(self) -> bool:
        return not any(draft._attached.freezes_base for draft in self._outrider_drafts().values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's own forward where no loss is wanted (generation, evaluation without labels);
        else a SpeculativeOutput. `loss_mask` [B,S]: 1 = this token is trained on; without it
        labels say so, else attention_mask."""
        names = _parameter_names(self._outrider_base_class)
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        is_wanted = self.training or any(
            kwargs.get(name) is not None for name in ("labels", "loss_mask"))
        if not is_wanted or kwargs.get("past_key_values") is not None:
            kwargs.pop("loss_mask", None)
            return super().forward(**kwargs)
        return self._outrider_losses(kwargs)

    def _outrider_losses(self, kwargs: dict[str, Any]) -> SpeculativeOutput:
        batch = train_batch(kwargs, self._outrider_labels)
        drafts = self._outrider_drafts()
        request = Request([draft._attached for draft in drafts.values()])
        trains_base = self._outrider_trains_base()
        base_arguments = {k: v for k, v in kwargs.items() if k not in _OWN_ARGUMENTS}
        outputs = run_base(super().forward, base_parts(self), request, trains_base,
                           {**base_arguments, "use_cache": False})
        results = {name: draft(outputs, batch) for name, draft in drafts.items()}
        output = SpeculativeOutput(
            hidden_states=outputs.last_hidden,
            draft_losses={name: loss for name, (loss, _) in results.items()},
            draft_metrics={name: metrics for name, (_, metrics) in results.items()})
        losses = list(output.draft_losses.values())
        if trains_base:
            stand_alone = any(draft._attached.labels_stand_alone for draft in drafts.values())
            output.lm_loss = _C.language_model_loss(outputs, batch, stand_alone)
            losses.append(output.lm_loss)
        output.loss = torch.stack([loss.to(losses[0].device) for loss in losses]).sum()
        meter = self._outrider_meters["train" if self.training else "eval"]
        for metrics in output.draft_metrics.values():
            meter.add(metrics)
        return output

    def train(self, mode: bool = True) -> Any:
        """Drafts train; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode)
        if not self._outrider_trains_base():
            for name, child in self.named_children():
                if name not in self._outrider_attributes:
                    child.eval()
        return self

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """The base's folder with the drafts' tensors in it, and outrider_state.json; where ModelOpt
        would compute the same, modelopt_state.pth as well."""
        is_main = kwargs.get("is_main_process", args[0] if args else True)
        result = super().save_pretrained(  # type: ignore[misc]
            save_directory, *args, **kwargs)
        if is_main:
            _C.write_record(self._outrider.record(), str(Path(save_directory).resolve()))
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_outrider": self._outrider.record().json(),
                "_outrider_meters": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        record = _C.Record.parse(state["_outrider"], "the copied model")
        super().__setstate__({**state, "_outrider": None, "_outrider_meters": _meters()})
        self._outrider = _external(self, self._outrider_config, torch.device("cpu"))
        self._outrider.rebuild(record, "the copied model", stored_bytes(self.state_dict()))
        for attached in self._outrider.drafts():
            attached.release()
            getattr(self, attached.attribute)._attached = attached

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return (_new_converted, (type(self)._outrider_base_class,), self.__getstate__())


def _meters() -> dict[str, Meter]:
    return {"train": Meter(), "eval": Meter()}


def _new_converted(base_class: Any) -> Any:
    cls = _converted_class(base_class)
    return cls.__new__(cls)


@cache
def _parameter_names(base_class: Any) -> tuple[str, ...]:
    signature = inspect.signature(base_class.forward)
    return tuple(signature.parameters)[1:]


@cache
def _converted_class(base_class: Any) -> Any:
    """Named as the base's class: config.json says `architectures` by it, and a checkpoint stays one
    of the base's family for programs that know nothing of drafts."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ConvertedModel.forward(self, *args, **kwargs)

    function: Any = forward
    signature = inspect.signature(base_class.forward)
    mask = inspect.Parameter("loss_mask", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = list(signature.parameters.values())
    keywords = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    others = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*others, mask, *keywords])
    function.__doc__ = ConvertedModel.forward.__doc__
    return type(base_class.__name__, (ConvertedModel, base_class), {
        "__module__": base_class.__module__,
        "__qualname__": base_class.__qualname__,
        "_outrider_base_class": base_class,
        "forward": forward,
    })


def _external(model: Any, config: str, device: torch.device) -> Any:
    dtype = base_parts(model).head.weight.dtype
    return _C.ExternalModel(config, f"the config of {type(model).__name__}", Owner(model), device,
                            dtype)


class Building:
    """A model on its way to be converted; nothing of it is changed before attach()."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model
        self.parts = base_parts(model)
        self.is_converted = isinstance(model, ConvertedModel)
        require_plain_head(model, self.parts)
        self.device = self._device_of_last_layer()
        self.config = (model._outrider_config if self.is_converted
                       else base_config(model, self.parts))
        # What lies on "meta" has no values to start from, and gets none here.
        device = torch.device("cpu") if self.device.type == "meta" else self.device
        self.external = (model._outrider if self.is_converted
                         else _external(model, self.config, device))

    def _device_of_last_layer(self) -> torch.device:
        parameter = next(self.parts.layers[-1].parameters(), self.parts.head.weight)
        return parameter.device

    def attach(self) -> Any:
        """Puts the drafts of `external` on the model, which gets another class; returns it."""
        model = self.model
        attributes = list(model._outrider_attributes) if self.is_converted else []
        new = [draft for draft in self.external.drafts() if draft.attribute not in attributes]
        _refuse_offline(new)
        if any(draft.freezes_base for draft in new):
            _freeze(model, attributes)
        if not self.is_converted:
            self._become_converted()
        on_meta = self.device if self.device.type == "meta" else None
        for draft in new:
            model.add_module(draft.attribute, DraftModule(draft, on_meta))
            model._outrider_attributes.append(draft.attribute)
        model.train(model.training)
        trainer_log.install()
        return model

    def _become_converted(self) -> None:
        model = self.model
        base_class: Any = type(model)
        model.__class__ = _converted_class(base_class)
        model._outrider = self.external
        model._outrider_config = self.config
        model._outrider_meters = _meters()
        model._outrider_attributes = []
        model._outrider_labels = Labels()
        # A draft's parts are used without their modules' forward: it stays in one place.
        model._no_split_modules = [*(getattr(model, "_no_split_modules", None) or ()),
                                   DraftModule.__name__]
        if "_old_forward" in model.__dict__:  # accelerate's hooks call it
            model._old_forward = types.MethodType(type(model).forward, model)


def _freeze(model: nn.Module, drafts: list[str]) -> None:
    for name, parameter in model.named_parameters():
        if name.partition(".")[0] not in drafts:
            parameter.requires_grad_(False)


def _refuse_offline(drafts: list[Any]) -> None:
    for draft in drafts:
        if draft.drops_layers:
            raise OutriderError(
                f"mode '{draft.mode}' is set to train offline, which a model in Python does not",
                "Unsupported", "use `outrider data hidden-states` and `outrider train`")


def converted(model: nn.Module) -> ConvertedModel:
    """Raises OutriderError (NotConverted) for a model that is not."""
    if isinstance(model, ConvertedModel):
        return model
    raise OutriderError(f"this {type(model).__name__} is not converted", "NotConverted",
                        "outrider.speculative.convert(model, mode) attaches a draft")


def freeze_again(model: ConvertedModel) -> None:
    """Where somebody exchanged the parameters, such as a loader of transformers."""
    if not model._outrider_trains_base():
        _freeze(model, model._outrider_attributes)
