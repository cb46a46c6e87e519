"""Whether sparse or low-precision attention can pay: its share of a step, and the length from which they win."""

from __future__ import annotations

# Tokens from which sparse attention gains, by device type. On a CPU the gathering kernel was measured on one thread, in
# float32, D = 64, density 1/4: at 256 tokens 0.6 to 1.6 times as fast as dense attention, from whether plans are made
# anew and how large their blocks are; at 512 tokens 1.1 to 2.2, at 1300 tokens 1.6 to 2.8.
# Elsewhere it is the length below which no published method shows a gain.
PAYS_FROM = {"cpu": 512}
PAYS_FROM_ELSEWHERE = 16384

# The density up to which it gains. CPU, 2304 tokens: as fast as dense attention at 0.57 with blocks of 32 tokens, 0.67
# with 64 and 0.72 with 128. Elsewhere gathering costs about as much as two thirds of dense attention.
PAYS_UP_TO = {"cpu": 0.55}
PAYS_UP_TO_ELSEWHERE = 0.35

# Tokens from which pooled keys gain: the same kernel with fewer keys. Elsewhere it is a guess: the length from which
# attention is more than its calls.
POOLING_PAYS_FROM = {"cpu": 512}
POOLING_PAYS_FROM_ELSEWHERE = 2048

# Tokens from which attention in fewer bits gains. On a CPU with bfloat16 instructions (one thread, two heads of 64
# channels) whole calls of the pocket model took 1.16 times as long at 320 tokens, where the calls around a product cost
# more than it saves, as long at 576, and less at 720 (1.1 times as fast), 1280 (1.2) and 2304 (1.4). Elsewhere it is a
# guess: quantising costs about as much as shorter attentions take.
LOW_PRECISION_PAYS_FROM = {"cpu": 640}
LOW_PRECISION_PAYS_FROM_ELSEWHERE = 1024


def min_tokens_to_gain(device: str) -> int:
    """The shortest sequence for which sparse attention is faster than the device's own dense attention."""
    return PAYS_FROM.get(device, PAYS_FROM_ELSEWHERE)


def max_density_to_gain(device: str) -> float:
    """The largest share of query-key pairs with which it is."""
    return PAYS_UP_TO.get(device, PAYS_UP_TO_ELSEWHERE)


def min_tokens_for_pooling(device: str) -> int:
    """The shortest sequence for which means of keys are faster than the device's own dense attention."""
    return POOLING_PAYS_FROM.get(device, POOLING_PAYS_FROM_ELSEWHERE)


def min_tokens_for_low_precision(device: str) -> int:
    """The shortest sequence for which attention in fewer bits is faster than the device's own."""
    return LOW_PRECISION_PAYS_FROM.get(device, LOW_PRECISION_PAYS_FROM_ELSEWHERE)


def attention_share(tokens: int, width: int) -> float:
    """The part of a transformer's step that is attention, by its multiplications: L / (L + 6 D).

    4 L^2 D of a block are query times key and weights times value, 24 L D^2 are projections and a feed-forward of four
    times the width. An estimate: text streams, cross-attention and narrower feed-forwards move it a little.
    """
    return tokens / (tokens + 6 * width)
