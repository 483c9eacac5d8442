"""An adapter into its model, or out of one that it was merged into, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from modelwright.base.errors import UserError
from modelwright.base.files import atomic_directory, read_json
from modelwright.formats.described import described, take_tokenizer
from modelwright.formats.huggingface import CONFIG, held_weights, load_config, save_model
from modelwright.formats.locate import resolve_model
from modelwright.formats.merging import put_adapter, without_weights
from modelwright.formats.peft import load_adapter
from modelwright.model.adapters import changeable, check_fit


def merge_adapter(model: Path, adapter: Path, out: Path, *, undo: bool = False) -> Path:
    """Write `model`, in the format of its weights, with the adapter in it, or without it again, to `out`.

    A quantized model is refused: what is merged into it is lost to rounding.
    """
    source, change = resolve_model(model), load_adapter(adapter)
    if read_json(source / CONFIG).get("quantization_config"):
        raise UserError(
            f"{source} is quantized, and rounding would lose what is merged into it: merge into the model"
            " that it was made from, and quantize that"
        )
    if out.exists():
        raise UserError(f"{out} is there already: choose a folder that is not")
    if undo and change.rows:
        raise UserError(
            f"{adapter} has set rows of {' and '.join(change.rows)}, and those that there were are lost: take"
            " the model that it was merged into"
        )
    config = load_config(source)
    check_fit(str(adapter), change, changeable(without_weights(config, source)))
    weights = held_weights(source, config)
    made = put_adapter(weights, change, config, undo=undo)
    with described(source) as beside, atomic_directory(out) as folder:
        if change.rows:
            take_tokenizer(beside, adapter, made.vocab_size, config.vocab_size)
        save_model(folder, without_weights(made, source), beside, weights)
    return out
