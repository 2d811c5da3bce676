"""Our models as lm-evaluation-harness sees them: its tasks and metrics, our scorer.

Gives `lm_eval --model hf`'s numbers on the converted model, whatever the batch size. The rules are the harness's own:
a context's trailing spaces belong to the continuation, context and continuation are tokenized together and cut where
the context alone ends, an empty context is the bos (else eos) token, and what is too long loses its left end.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.eval.answers import Answers
from mcc.eval.generation.batches import Batches, Job
from mcc.eval.generation.decoding import Decoding
from mcc.eval.place import Place
from mcc.eval.scorer import DEFAULT_BATCH_TOKENS, Scorer, Span
from mcc.eval.tokenizer import TextTokenizer
from mcc.models.base.transformer import Stage

# A request as the harness hands it on: (texts or None, context tokens, continuation tokens).
Request = tuple[tuple[str, str] | None, list[int], list[int]]
DEFAULT_NEW_TOKENS = 256


class MccLM(TemplateLM):
    """A model adapter for lm-evaluation-harness.

    Args:
        model: the whole model, or the leader's part of it.
        tokenizer: the one it was trained with.
        batch_tokens: most tokens of a forward pass.
        reporter: receives one task for each kind of request.
        place: this rank, which leads the others.
        answers: those that are known already; new ones are added.
        alike: see `Scorer`.
    """

    def __init__(
        self,
        model: Stage,
        tokenizer: TextTokenizer,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        reporter: Reporter = SILENT,
        place: Place | None = None,
        answers: Answers | None = None,
        alike: bool = False,
    ) -> None:
        super().__init__()
        self.answers = answers or Answers()
        self.scorer = Scorer(model, batch_tokens, place, alike=alike)
        self.tokenizer = tokenizer
        self.reporter = reporter
        self._device = self.scorer.device
        self._bos_text = "" if tokenizer.prefix_id is None else tokenizer.decode([tokenizer.prefix_id])

    @property
    def max_length(self) -> int:
        """Most tokens that the model reads."""
        return self.scorer.max_length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        if self.tokenizer.eos_id is None:
            raise MccError(
                f"{self.tokenizer.file}: no token ends a text, and this task needs one",
                'name it in tokenizer_config.json beside it: {"eos_token": "<|endoftext|>"}',
            )
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a continuation without context."""
        return self.eot_token_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; a text that already starts with the bos token gets no second one."""
        if add_special_tokens is None:
            add_special_tokens = not (self._bos_text and string.startswith(self._bos_text))
        return self.tokenizer.encode(string, special=add_special_tokens)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether greedy decoding gives it) for each (context, continuation)."""
        for request in requests:
            if not request.args[1]:
                raise MccError(f"{_name(request)}: the continuation is empty, there is nothing to score")
        scored: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scored

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = True, **_: Any
    ) -> list[tuple[float, bool]]:
        spans = [self._span(context, continuation) for _, context, continuation in requests]
        self._warn_of_cut(sum(len(a) + len(b) > self.max_length + 1 for _, a, b in requests), len(requests))
        keys = [self.answers.key("log-likelihood", span.inputs, span.targets) for span in spans]
        known = [self.answers.get(key) for key in keys]
        results = [(0.0, False) if answer is None else (float(answer[0]), bool(answer[1])) for answer in known]
        rest = [index for index, answer in enumerate(known) if answer is None]
        with self.reporter.task("score", total=len(spans), unit="requests") as task:
            task.advance(len(spans) - len(rest))
            for at, score in self.scorer.score([spans[index] for index in rest]):
                index = rest[at]
                results[index] = (score.log_likelihood, score.is_greedy)
                self.answers.add(keys[index], results[index])
                task.advance()
        self.answers.flush()
        return results

    def _warn_of_cut(self, cut: int, requests: int) -> None:
        if cut:
            self.reporter.warn(
                f"{cut} of {requests} requests are longer than the model's context of {self.max_length}: "
                "their beginnings are not read"
            )

    def _span(self, context: list[int], continuation: list[int]) -> Span:
        """The last `max_length` tokens of the context and all of the continuation but its last one are read."""
        if not continuation:
            raise MccError("a continuation has no token of its own: the tokenizer merges it into its context")
        if len(continuation) > self.max_length:
            raise MccError(
                f"a continuation of {len(continuation)} tokens is longer than the model's context of {self.max_length}",
                "score this task with a model of longer context",
            )
        return Span((context + continuation)[-(self.max_length + 1) :][:-1], continuation)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each whole text, in disjoint windows with the longest context that fits each."""
        windows: list[Request] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for pair in pairs:
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(index)
        totals = [0.0] * len(requests)
        for index, (log_likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, each cut before its first stop sequence or the end of text."""
        keys = [self.answers.key("generate", *request.args) for request in requests]
        results = [self.answers.get(key) or "" for key in keys]
        rest = [index for index, key in enumerate(keys) if self.answers.get(key) is None]
        made = [self._job(requests[index]) for index in rest]
        self._warn_of_cut(sum(cut for _, cut in made), len(requests))
        jobs = [job for job, _ in made]
        batches = Batches(self.scorer.model, self.tokenizer, self.scorer.place, alike=self.scorer.alike)
        with self.reporter.task("generate", total=len(requests), unit="requests") as task:
            task.advance(len(requests) - len(rest))
            for at, (ended,) in batches.run(jobs, Decoding(), self.scorer.batch_tokens):
                text = self.tokenizer.decode(ended.tokens, skip_special=True)
                cut = min((found for stop in jobs[at].stops if (found := text.find(stop)) >= 0), default=len(text))
                results[rest[at]] = text[:cut]
                self.answers.add(keys[rest[at]], text[:cut])
                task.advance()
        self.answers.flush()
        return results

    def _job(self, request: Instance) -> tuple[Job, bool]:
        """The request's context, and whether it was cut on the left so that all new tokens fit the model.

        Raises:
            MccError: sampling is asked for, or the new tokens alone fill the model's context.
        """
        context, options = request.args
        if options.get("do_sample") or options.get("temperature"):
            raise MccError(f"{_name(request)}: asks for sampling, but only greedy generation is scored")
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        new_tokens = next((int(options[name]) for name in names if options.get(name)), DEFAULT_NEW_TOKENS)
        room = self.max_length - new_tokens
        if room < 1:
            raise MccError(
                f"{_name(request)}: {new_tokens} new tokens leave no room for a prompt in a context of "
                f"{self.max_length}",
                "score this task with a model of longer context",
            )
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        whole = self.tok_encode(context)
        tokens = whole[-room:] or [self.prefix_token_id]
        ends = frozenset() if self.tokenizer.eos_id is None else frozenset([self.tokenizer.eos_id])
        job = Job(tokens, new_tokens, tuple(stop for stop in stops if stop), ends, joined=False)
        return job, len(whole) > room


def _name(request: Instance) -> str:
    return f"{request.task_name or 'task'}, document {request.doc_id}"
