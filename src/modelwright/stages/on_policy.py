"""Answers that the student writes itself, for its teacher to judge: on-policy distillation (GKD, arXiv
2306.13649, algorithm 1).

Of the micro-batches a share keeps its prompts and loses its answers: the student writes others, at
temperature 1 and with the weights of that very step, and both models are compared on the tokens that it drew.
Prompt and answer stay the ids that they were: nothing is turned into text and back, and no gradient flows
through the drawing. Which micro-batches, which turns and which tokens follow from the seed and the number of
the micro-batch, so a training that was killed draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from modelwright.base.errors import ConfigError
from modelwright.base.metrics import MetricsFile, read_metrics
from modelwright.base.run import Run
from modelwright.base.schema import Batch, Completion, Sampling
from modelwright.base.seeding import derive
from modelwright.model.flops import matmul_parameters
from modelwright.model.transformer import Transformer
from modelwright.objectives.distill import SAMPLED
from modelwright.stages.teacher import TeacherConfig
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.batches import MULTIPLE, Example, Grouped, Packed, padded
from modelwright.training.step_plan import StepPlan

ON_POLICY = "on_policy.jsonl"
"""What the student wrote: a line a micro-batch."""
SLOTS = 128
"""Answers that are written at the same time, at most."""


class OnPolicy:
    """`given`, with the student's own answers in a share of the micro-batches. To be asked for one step at a
    time, in order, when the weights are those of the step."""

    def __init__(
        self,
        given: Packed | Grouped,
        config: TeacherConfig,
        plan: StepPlan,
        model: Transformer,
        tokenizer: BPETokenizer,
        run: Run,
        *,
        context: int,
        use_compiled: bool,
    ) -> None:
        """`context`: tokens in a row. `use_compiled`: the model's layers are not wrapped, so compiled steps
        may answer, where there are any."""
        if run.sampler_of is None:
            raise ConfigError(
                "teacher.on_policy asks for answers of the student, and nobody answers here: train in one"
                " process, or set finetune.teacher.on_policy=0"
            )
        self._given, self._config, self._plan = given, config, plan
        self._model, self._run, self._context = model, run, context
        self._padding = tokenizer.pad_id
        self._sampler = run.sampler_of(model, tokenizer, SLOTS, use_compiled=use_compiled)
        self._begun = False

    def __len__(self) -> int:
        """Micro-batches over all epochs, those with own answers among them."""
        return len(self._given)

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: as it was given, or (rows, T) with the student's answers as they are now."""
        if not self._begun:
            file = MetricsFile(self._run.dir / ON_POLICY)
            file.rewind(self._plan.step_of(index))  # an earlier session may have come further
            file.close()
            self._begun = True
        if not self.is_own(index):
            return self._given[index]
        random = np.random.default_rng(derive(self._run.seed, "turns", index))
        opened = [opening(example, random) for example in self._given.examples_in(index)]
        prompts = [ids for ids in opened if len(ids) < self._context]
        if not prompts:
            return self._given[index]
        start = time.monotonic()
        rows, answers = [], self._answers(index, prompts)
        seconds = time.monotonic() - start
        for prompt, answer in zip(prompts, answers, strict=True):
            whole = (*prompt, *answer.ids)[: self._context + 1]
            learned = [False] * len(prompt) + [True] * (len(whole) - len(prompt))
            rows.append(Example(whole, learned))
        batch, dropped = self._laid_out(rows, index)
        self._write(index, prompts, answers, dropped, seconds)
        return batch

    def is_own(self, index: int) -> bool:
        """Whether the student answers in micro-batch `index`: a coin that falls so with `on_policy`."""
        drawn = np.random.default_rng(derive(self._run.seed, "on policy", index)).random()
        return bool(drawn < self._config.on_policy)

    def _answers(self, index: int, prompts: Sequence[Sequence[int]]) -> list[Completion]:
        """The student's answers with its weights as they are now, whose version is the number of updates that
        they have seen."""
        version, device = self._plan.step_of(index), self._model.head.device
        seed = derive(self._run.seed, "own answers", index)
        sampling = Sampling(temperature=1.0, max_tokens=self._config.max_tokens, seed=seed)
        self._model.train(False)
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.compiler.set_stance("force_eager"),
        ):
            self._sampler.update_weights(self._model.state_dict(), version)
            return self._sampler.sample(prompts, sampling)

    def _write(
        self,
        index: int,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Completion],
        dropped: int,
        seconds: float,
    ) -> None:
        """A line of what was written; how fast goes to where the clock's figures are."""
        step = self._plan.step_of(index) + 1
        tokens = sum(len(answer.ids) for answer in answers)
        file = MetricsFile(self._run.dir / ON_POLICY)
        file.write(
            step,
            {
                "micro_batch": index,
                "policy_version": answers[0].policy_version,
                "answers": len(answers),
                "prompt_tokens": sum(map(len, prompts)),
                "tokens": tokens,
                "mean_length": tokens / len(answers),
                "ended_at_once": sum(len(each.ids) == 1 and each.finish_reason == "stop" for each in answers),
                "without_end": sum(each.finish_reason != "stop" for each in answers),
                "dropped": dropped,
            },
        )
        file.close()
        self._run.timing(
            step, sampling_seconds=seconds, sampled_tokens_per_second=tokens / max(seconds, 1e-9)
        )

    def _laid_out(self, rows: Sequence[Example], index: int) -> tuple[Batch, int]:
        """As the given ones are laid out: side by side in rows, or one a row; and how many found no place.
        There are never more rows than were given, which is what the memory was planned for."""
        dropped = 0
        if isinstance(self._given, Grouped):
            batch = padded(rows, self._padding, MULTIPLE)
            ids, targets, segments = batch.ids, batch.targets, None
        else:
            packed = Packed(rows, 1, self._context, derive(self._run.seed, "own rows", index), self._padding)
            room = min(len(packed), len(self._given[index].ids))
            parts = [packed[row] for row in range(room)]
            dropped = sum(len(packed.members(row)) for row in range(room, len(packed)))
            ids, targets = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "targets"))
            segments = torch.cat([part.segments for part in parts if part.segments is not None])
        extra = {SAMPLED: torch.ones(len(ids))}
        return Batch(ids=ids, targets=targets, segments=segments, extra=extra), dropped

    def report(self) -> dict[str, float]:
        """What the student wrote over the whole training, earlier sessions included."""
        lines = list(read_metrics(self._run.dir / ON_POLICY))
        names = ("answers", "prompt_tokens", "tokens", "ended_at_once", "without_end", "dropped")
        sums = {name: sum(int(line[name]) for line in lines) for name in names}
        shown = {f"sampled_{name}": float(value) for name, value in sums.items()}
        return shown | {
            "sampled_share": len(lines) / len(self._given),
            "sampled_mean_length": sums["tokens"] / max(1, sums["answers"]),
        }

    def flops(self) -> float:
        """What the writing took: 2 FLOPs for each weight and token that was read or written."""
        report = self.report()
        tokens = report["sampled_prompt_tokens"] + report["sampled_tokens"]
        return 2.0 * matmul_parameters(self._model.config) * tokens


def opening(example: Example, random: np.random.Generator) -> Sequence[int]:
    """An example's ids up to one of the answers that are learned in it, drawn evenly: what the student goes
    on with in the place of that answer."""
    learned = [False, *example.mask[1:]]  # the first token follows nothing, so it is no answer's
    starts = [place for place, (before, here) in enumerate(pairwise(learned), 1) if here and not before]
    return example.ids[: starts[int(random.integers(len(starts)))]]
