"""Context distillation: a model learns without a context what it says with one, and its error is known exactly.

Teacher: the model behind its context. Learner: the model without it. The target is the teacher's distribution over the
allowed tokens, renormalised, at temperature 1; the error is the KL divergence from teacher to learner in nats per
response. It is Rao-Blackwellised: responses are drawn, and at each of their positions the KL of the next token is
summed exactly. Trained are the upper layers and the last norm; what the fixed lower layers make of a prompt and its
responses is computed once. Where all layers are trained, so are the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from experiments.shared.llama import Layer, Llama, Pack, Shape, predicting, sample, through
from experiments.shared.training import Fit, Recipe, fit
from mrtsim.errors import InputError
from mrtsim.pilot.sums import PromptSums
from mrtsim.selection.registry import Pool, strategy

AT_ONCE = 8  # prompts that share a product


class Text(NamedTuple):
    """Prompts as tokens, filled up on the left: `tokens` (prompts, P), and how many slots of each are filling."""

    tokens: Int[Array, "prompts slots"]
    starts: Int[Array, " prompts"]


class Answers(NamedTuple):
    """Responses of the teacher, (prompts, responses, length).

    `tokens` are numbers among the allowed tokens, `counted` is false behind an end mark, and `log_p` is the teacher's
    log-probability of each token.
    """

    tokens: Int[Array, "prompts responses length"]
    counted: Bool[Array, "prompts responses length"]
    log_p: Float[Array, "prompts responses length"]


class Data(NamedTuple):
    """What the learner trains on or is judged by: its input at every slot, and the responses.

    Inputs are states below the trained layers, (..., width), or tokens where all layers are trained.
    """

    prompts: Array
    starts: Int[Array, " prompts"]
    responses: Array
    answers: Answers


class Learner(eqx.Module):
    """The weights that are trained: upper layers, last norm, and the embedding where all layers are."""

    layers: Layer
    norm: Float[Array, " width"]
    embedding: Float[Array, "vocabulary width"] | None

    @classmethod
    def of(cls, model: Llama, trained: int) -> Learner:
        """The uppermost `trained` layers of a model, as they are."""
        layers = jax.tree.map(lambda a: a[model.shape.depth - trained :], model.layers)
        return cls(layers, model.norm, model.embedding if trained == model.shape.depth else None)


class Fixed(eqx.Module):
    """What is not trained: the output weights of the allowed tokens (where they are fixed), and these tokens."""

    head: Float[Array, "allowed width"]
    allowed: Int[Array, " allowed"]
    shape: Shape = eqx.field(static=True)

    @classmethod
    def of(cls, model: Llama, allowed: Int[Array, " allowed"]) -> Fixed:
        """Of a model and the tokens that it may use."""
        return cls(model.embedding[allowed], allowed, model.shape)


def filled(prompts: list[list[int]], size: int = 0) -> Text:
    """Prompts of unequal length as one array, filled up on the left, of `size` slots or more."""
    size = max(size, *map(len, prompts))
    tokens = np.zeros((len(prompts), size), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[size - len(prompt) :] = prompt
    return Text(jnp.asarray(tokens), jnp.asarray([size - len(prompt) for prompt in prompts], jnp.int32))


def teacher_log_p(
    model: Llama, text: Text, which: Array, tokens: Int[Array, "responses length"], allowed: Array
) -> tuple[Float[Array, "responses length allowed"], Float[Array, "responses length"]]:
    """The teacher's log-probabilities of the allowed tokens, renormalised, and the log of the mass that they have."""
    pack = Pack(model.embedding[text.tokens[which]], model.embedding[allowed[tokens]])
    states = predicting(model.layers, model.norm, pack, text.starts[which], model.shape)
    scores = states @ model.embedding.T
    chosen = scores[..., allowed] - jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    mass = jax.nn.logsumexp(chosen, axis=-1)
    return chosen - mass[..., None], mass


@eqx.filter_jit
def draw_answers(
    key: PRNGKeyArray, model: Llama, text: Text, allowed: Array, end: int, responses: int, length: int
) -> Answers:
    """Responses of the teacher to every prompt.

    Args:
        key: of the draws.
        model: the teacher.
        text: prompts with their context.
        allowed: the tokens that may be drawn.
        end: number, among the allowed tokens, of the mark that ends a response.
        responses: R per prompt.
        length: T of a response.
    """

    def one(row: Array) -> Answers:
        prompt, start = text.tokens[row], text.starts[row]
        tokens, log_p = sample(jax.random.fold_in(key, row), model, prompt, start, allowed, responses, length)
        counted = (jnp.cumsum(tokens == end, axis=1) - (tokens == end)) == 0
        return Answers(tokens, counted, log_p)

    return jax.lax.map(one, jnp.arange(len(text.tokens), dtype=jnp.uint32), batch_size=AT_ONCE)


@eqx.filter_jit
def most_likely(
    key: PRNGKeyArray, model: Llama, text: Text, count: int, responses: int, length: int
) -> Int[Array, " count"]:
    """The tokens with the largest mean probability in responses that the teacher draws from its whole vocabulary."""
    whole = jnp.arange(model.shape.vocabulary)

    def one(row: Array) -> Array:
        prompt, start = text.tokens[row], text.starts[row]
        tokens, _ = sample(jax.random.fold_in(key, row), model, prompt, start, whole, responses, length)
        return jnp.exp(teacher_log_p(model, text, row, tokens, whole)[0]).mean((0, 1))

    rows = jnp.arange(len(text.tokens), dtype=jnp.uint32)
    mean = jax.lax.map(one, rows, batch_size=AT_ONCE).mean(0)
    return jnp.sort(jax.lax.top_k(mean, count)[1])


@eqx.filter_jit
def learner_data(model: Llama, text: Text, answers: Answers, allowed: Array, trained: int) -> Data:
    """The learner's inputs: tokens where all layers are trained, else states behind the fixed layers."""
    tokens = allowed[answers.tokens]
    if trained == model.shape.depth:
        return Data(text.tokens, text.starts, tokens, answers)
    lower = jax.tree.map(lambda a: a[: model.shape.depth - trained], model.layers)

    def one(row: Array) -> Pack:
        pack = Pack(model.embedding[text.tokens[row]], model.embedding[tokens[row]])
        return through(lower, pack, text.starts[row], model.shape)

    prompts, responses = jax.lax.map(one, jnp.arange(len(tokens)), batch_size=AT_ONCE)
    return Data(prompts, text.starts, responses, answers)


def log_q(
    learner: Learner, fixed: Fixed, prompt: Array, start: Array, responses: Array
) -> Float[Array, "responses length allowed"]:
    """The learner's log-probabilities of the allowed tokens, renormalised, for the responses to one prompt."""
    pack, head, embedding = Pack(prompt, responses), fixed.head, learner.embedding
    if embedding is not None:
        pack, head = Pack(embedding[prompt], embedding[responses]), embedding[fixed.allowed]
    states = predicting(learner.layers, learner.norm, pack, start, fixed.shape)
    return jax.nn.log_softmax(states @ head.T, axis=-1)


def nll(learner: Learner, fixed: Fixed, data: Data, prompt: Array, response: Array) -> Float[Array, ""]:
    """Negative log-likelihood of one response, in nats, summed over its tokens; the row of a training batch."""
    answers = data.answers
    scores = log_q(
        learner, fixed, data.prompts[prompt], data.starts[prompt], data.responses[prompt, response][None]
    )[0]
    chosen = jnp.take_along_axis(scores, answers.tokens[prompt, response][:, None], axis=-1)[:, 0]
    return -jnp.sum(chosen * answers.counted[prompt, response])


class Judge(NamedTuple):
    """Held-out prompts: the learner's inputs, and the teacher's log-probabilities of every allowed token."""

    data: Data
    log_p: Float[Array, "prompts responses length allowed"]


@eqx.filter_jit
def judge_of(
    model: Llama, teacher: Text, data: Data, allowed: Array
) -> tuple[Judge, Float[Array, "prompts responses length"]]:
    """The judge of drawn answers, and the share of the teacher's mass that the allowed tokens leave out.

    `teacher` are the same prompts with their context.
    """

    def one(row: Array) -> tuple[Array, Array]:
        return teacher_log_p(model, teacher, row, data.answers.tokens[row], allowed)

    log_p, mass = jax.lax.map(one, jnp.arange(len(teacher.tokens)), batch_size=AT_ONCE)
    return Judge(data, log_p), -jnp.expm1(mass)


def divergence(learner: Learner, fixed: Fixed, judge: Judge) -> Float[Array, " prompts"]:
    """KL(teacher || learner) per prompt, in nats per response."""

    def one(row: tuple[Data, Array]) -> Array:
        data, log_p = row
        scores = log_q(learner, fixed, data.prompts, data.starts, data.responses)
        kl = jnp.sum(jnp.exp(log_p) * (log_p - scores), axis=-1)
        return jnp.mean(jnp.sum(kl * data.answers.counted, axis=-1))

    return jax.lax.map(one, (judge.data, judge.log_p), batch_size=AT_ONCE)


def nll_difference(learner: Learner, fixed: Fixed, data: Data) -> Float[Array, " prompts"]:
    """The learner's NLL less the teacher's, mean per prompt: the divergence without Rao-Blackwellisation."""

    def one(data: Data) -> Array:
        answers = data.answers
        scores = log_q(learner, fixed, data.prompts, data.starts, data.responses)
        chosen = jnp.take_along_axis(scores, answers.tokens[..., None], axis=-1)[..., 0]
        return jnp.mean(jnp.sum((answers.log_p - chosen) * answers.counted, axis=-1))

    return jax.lax.map(one, data, batch_size=AT_ONCE)


class Design(NamedTuple):
    """N_p prompts and K responses each, all numbers, so that every design is one compiled program.

    `order` (prompts, candidates) are the pool's responses in a strategy's order of picking; random where `shuffled`.
    """

    n_prompts: Any
    k: Any
    order: Int[Array, "prompts candidates"]
    shuffled: Any


def order_of(name: str, answers: Answers, vocabulary: int) -> Int[Array, "prompts candidates"]:
    """The responses in a strategy's order of picking: the first K are its picks for K.

    Rewards are the teacher's log-probability per token; similarities are cosines of token counts.
    """
    method = strategy(name)
    if method.random or not method.nested:
        raise InputError(f"strategy {name} has no fixed order of picking")
    counted, n = answers.counted, answers.tokens.shape[1]
    counts = jax.vmap(jax.vmap(lambda t, c: jnp.zeros(vocabulary).at[t].add(c)))(
        answers.tokens, 1.0 * counted
    )
    rewards = jnp.sum(answers.log_p * counted, axis=-1) / jnp.sum(counted, axis=-1)
    return method(None, Pool(rewards=rewards, embeddings=counts), n)


def rows_of(key: PRNGKeyArray, design: Design, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Prompt and response of rows drawn with replacement from a design's, (shape) each.

    With one key, every design has the same order of prompts, and of each prompt's responses where these are random.
    """
    prompt_key, response_key, *row_keys = jax.random.split(key, 4)
    n, candidates = design.order.shape
    chosen = jax.random.permutation(prompt_key, n)
    order = strategy("rkon")(response_key, Pool(rewards=jnp.zeros((n, candidates))), candidates)
    order = jnp.where(design.shuffled, order, design.order)
    prompts = chosen[jax.random.randint(row_keys[0], shape, 0, design.n_prompts)]
    return prompts, order[prompts, jax.random.randint(row_keys[1], shape, 0, design.k)]


@dataclass(frozen=True)
class Schedule:
    """How a learner is trained: a recipe, and the rows per step."""

    recipe: Recipe
    batch: int


def train(
    key: PRNGKeyArray,
    start: Learner,
    fixed: Fixed,
    pool: Data,
    design: Design,
    schedule: Schedule,
    validate: Callable[[Learner], Float[Array, ""]] | None = None,
    record: Callable[[Learner], Any] | None = None,
) -> Fit:
    """Train a learner on a design's rows, in batches drawn with replacement.

    Args:
        key: of the choice of prompts and responses, and of the batches.
        start: the learner before training.
        fixed: what is not trained.
        pool: all prompts and their candidates.
        design: which of them are used.
        schedule: steps, rate, rows per step, and how often the learner is checked.
        validate: the error whose least value names the best learner.
        record: what is kept of the learner at every check.
    """
    rows = rows_of(key, design, (schedule.recipe.steps, schedule.batch))

    def objective(learner: Learner, rows: tuple[Array, Array]) -> Array:
        return jnp.mean(jax.vmap(lambda prompt, response: nll(learner, fixed, pool, prompt, response))(*rows))

    return fit(start, objective, schedule.recipe, rows, validate, record)


@eqx.filter_jit
def gradient_norms(
    learner: Learner, fixed: Fixed, data: Data, n_prompts: int, k: int
) -> tuple[
    Float[Array, " prompts"], Float[Array, " prompts"], Float[Array, " prompts"], Float[Array, "prompts k"]
]:
    """What `PromptSums.of_norms` needs of the per-response gradients at the first prompts, and their losses.

    No more than K gradients are held at once. The inner product of a prompt's mean gradient with the mean of all is a
    directional derivative of its mean loss.
    """

    def mean_loss(learner: Learner, prompt: Array) -> Array:
        return jnp.mean(jax.vmap(lambda r: nll(learner, fixed, data, prompt, r))(jnp.arange(k)))

    def norms(total: Learner, prompt: Array) -> tuple[Learner, Any]:
        losses, gradients = jax.vmap(lambda r: jax.value_and_grad(nll)(learner, fixed, data, prompt, r))(
            jnp.arange(k)
        )
        mean = jax.tree.map(lambda g: g.mean(0), gradients)
        return jax.tree.map(jnp.add, total, mean), (_square(gradients), _square(mean), losses)

    rows = jnp.arange(n_prompts)
    total, (squares, mean_squares, losses) = jax.lax.scan(norms, jax.tree.map(jnp.zeros_like, learner), rows)
    mean = jax.tree.map(lambda g: g / n_prompts, total)
    inner = jax.lax.map(lambda row: jax.jvp(lambda m: mean_loss(m, row), (learner,), (mean,))[1], rows)
    return squares, mean_squares, inner, losses


def _square(tree: Any) -> Array:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))  # pyright: ignore


class Pilots(NamedTuple):
    """Sums of a pilot of losses and of one of gradients, of the same responses."""

    losses: PromptSums
    gradients: PromptSums


def pilots(learner: Learner, fixed: Fixed, data: Data, n_prompts: int, k: int) -> Pilots:
    """Both pilots at the first prompts of the data, with their first k responses."""
    found = gradient_norms(learner, fixed, data, n_prompts, k)
    squares, mean_squares, inner, losses = (np.asarray(a, np.float64) for a in found)
    return Pilots(
        PromptSums.of(losses), PromptSums.of_norms(np.full(n_prompts, k), squares, mean_squares, inner)
    )
