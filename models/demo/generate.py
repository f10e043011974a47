#!/usr/bin/env python3
"""Training text, held-out questions and held-out plain text of the demo model.

Every skill is a function (rng, split) -> Dialogue. A hash of what the question is about (the operands,
the word, the wording) puts it on the "train" or the "test" side, so the two never meet.

    generate.py --tasks tasks.jsonl --heldout heldout.txt     writes the two held-out files
    generate.py --show 20                                     prints training samples
"""
import argparse
import json
import random
import zlib
from dataclasses import dataclass, field

import world
from world import FACTS, RELATIONS

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


@dataclass
class Turn:
    user: str
    work: str                 # text inside <think>
    answer: str
    spelled: bool = False     # answer is not a word: teach it letter by letter
    hard_direct: bool = False # without the working the answer is a guess: weigh it little


@dataclass
class Dialogue:
    skill: str
    turns: list = field(default_factory=list)
    think: bool = True        # the prompt of the last turn ends with <think> (else </think>)
    system: str = ""
    match: str = "exact"
    text: str = ""            # plain text instead of a chat


def held(*key):
    """True for the tenth of all keys that is kept out of training."""
    return zlib.crc32("|".join(map(str, key)).encode()) % 10 == 0


def draw(split, make, key=lambda v: v):
    """Draw values until one falls on the wanted side of the split."""
    while True:
        value = make()
        k = key(value)
        if held(*(k if isinstance(k, tuple) else (k,))) == (split == "test"):
            return value


# ------------------------------------------------------------------------------------ arithmetic

PLACES = ["ones", "tens", "hundreds", "thousands"]


def digit(n, i):
    return n // 10 ** i % 10


def add_work(a, b):
    steps, carry = [], 0
    for i in range(max(len(str(a)), len(str(b)))):
        total = digit(a, i) + digit(b, i) + carry
        terms = f"{digit(a, i)}+{digit(b, i)}" + ("+1" if carry else "")
        carry = total // 10
        steps.append(f"{PLACES[i]} {terms}={total}" + (" carry 1" if carry else ""))
    return f"{', '.join(steps)}, so {a + b}"


def sub_work(a, b):
    if a < b:
        return f"{b} is larger, turn: {sub_work(b, a)}, minus: {a - b}"
    steps, borrow = [], 0
    for i in range(len(str(a))):
        top = digit(a, i)
        terms = f"{top}-{digit(b, i)}" + ("-1" if borrow else "")
        left = top - digit(b, i) - borrow
        borrow = int(left < 0)
        steps.append(f"{PLACES[i]} {terms} borrow 1{terms}={left + 10}" if borrow else f"{PLACES[i]} {terms}={left}")
    return f"{', '.join(steps)}, so {a - b}"


def mul_work(a, b):
    if a < 10 and b < 10:
        return f"{a}*{b}={a * b}"
    if a < b:
        a, b = b, a
    if b >= 10:
        tens, ones = b // 10 * 10, b % 10
        return f"{a}*{b // 10}={a * (b // 10)}, {a}*{tens}={a * tens}; {a}*{ones}={a * ones}; {add_work(a * tens, a * ones)}"
    steps, carry = [], 0
    for i in range(len(str(a))):
        product = digit(a, i) * b
        step = f"{PLACES[i]} {digit(a, i)}*{b}={product}"
        if carry:
            step += f", {product}+{carry}={product + carry}"
        carry = (product + carry) // 10
        steps.append(step + (f" carry {carry}" if carry and i + 1 < len(str(a)) else ""))
    return f"{', '.join(steps)}, so {a * b}"


ARITHMETIC = {
    "+": (add_work, lambda a, b: a + b,
          ["What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?", "What is {a} plus {b}?", "Add {a} and {b}.",
           "add {a} and {b}", "Calculate {a} + {b}.", "How much is {a} + {b}?", "How much is {a} plus {b}?", "{a}+{b}=?",
           "What do you get when you add {a} and {b}?", "Compute {a} + {b}.", "What is the sum of {a} and {b}?",
           "what is {a}+{b}?", "I have {a} apples and get {b} more. How many apples do I have?"],
          ["and plus {b}?", "And plus {b}?", "plus {b}?", "Now add {b}.", "and {b} more?", "Add {b} to that."]),
    "-": (sub_work, lambda a, b: a - b,
          ["What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "What is {a} minus {b}?", "Subtract {b} from {a}.",
           "Calculate {a} - {b}.", "How much is {a} - {b}?", "How much is {a} minus {b}?", "Compute {a} - {b}.",
           "Take {b} away from {a}.", "What is the difference of {a} and {b}?",
           "I have {a} apples and give {b} away. How many apples are left?"],
          ["and minus {b}?", "And minus {b}?", "minus {b}?", "Now subtract {b}.", "and {b} less?", "Take {b} away from that."]),
    "*": (mul_work, lambda a, b: a * b,
          ["What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "What is {a} times {b}?", "Multiply {a} by {b}.",
           "Calculate {a} * {b}.", "How much is {a} times {b}?", "Compute {a} * {b}.", "What is the product of {a} and {b}?",
           "multiply {a} and {b}", "I have {a} boxes with {b} apples each. How many apples do I have?"],
          ["and times {b}?", "And times {b}?", "times {b}?", "Now multiply by {b}.", "Multiply that by {b}."]),
}


def arithmetic_turn(rng, op, a, b):
    work, value, phrasings, _ = ARITHMETIC[op]
    return Turn(rng.choice(phrasings).format(a=a, b=b), work(a, b), str(value(a, b)), hard_direct=a + b > 20)


def pair_key(op):
    return lambda ab: (op, *(ab if op == "-" else sorted(ab)))


def skill_add2(rng, split):
    a, b = draw(split, lambda: (rng.randint(10, 99), rng.randint(10, 99)), pair_key("+"))
    return Dialogue("add2", [arithmetic_turn(rng, "+", a, b)], match="last_number")


def skill_add(rng, split):
    def make():
        digits = rng.choice(((1, 1), (1, 2), (2, 1), (3, 2), (2, 3), (3, 3), (3, 3), (3, 1), (1, 3)))
        return tuple(rng.randint(10 ** (d - 1) if d > 1 else 0, 10 ** d - 1) for d in digits)
    a, b = draw(split, make, pair_key("+"))
    return Dialogue("add", [arithmetic_turn(rng, "+", a, b)], match="last_number")


def skill_sub(rng, split):
    def make():
        top = rng.choice((20, 99, 99, 99, 999))
        a, b = rng.randint(0, top), rng.randint(0, top)
        return (a, b) if a >= b or rng.random() < 0.15 else (b, a)
    a, b = draw(split, make, pair_key("-"))
    return Dialogue("sub", [arithmetic_turn(rng, "-", a, b)], match="last_number")


def skill_mul(rng, split):
    def make():
        a, b = rng.randint(0, rng.choice((9, 12, 99, 99, 99))), rng.randint(2, 9)
        return (a, b) if rng.random() < 0.7 else (b, a)
    a, b = draw(split, make, pair_key("*"))
    return Dialogue("mul", [arithmetic_turn(rng, "*", a, b)], match="last_number")


# ----------------------------------------------------------------------------- comparing, sorting

def compare_work(a, b, want_large):
    if len(str(a)) != len(str(b)):
        note = f"{a} has {len(str(a))} digits, {b} has {len(str(b))}"
    else:
        steps = []
        for i in reversed(range(len(str(a)))):
            x, y = digit(a, i), digit(b, i)
            steps.append(f"{PLACES[i]} {x}{'=' if x == y else '<' if x < y else '>'}{y}")
            if x != y:
                break
        note = ", ".join(steps)
    return f"{note}, so {a}{'<' if a < b else '>'}{b}, {'larger' if want_large else 'smaller'} {max(a, b) if want_large else min(a, b)}"


def skill_compare(rng, split):
    def make():
        digits = rng.choice((1, 2, 2, 3, 3))
        low = 0 if digits == 1 else 10 ** (digits - 1)
        a = rng.randint(low, 10 ** digits - 1)
        b = rng.randint(low, 10 ** digits - 1) if rng.random() < 0.75 else rng.randint(0, 999)
        if rng.random() < 0.25:
            b = max(0, a + rng.randint(-12, 12))
        return (a, b) if a != b else (a, a + 1)
    a, b = draw(split, make)
    large = rng.random() < 0.6
    word = rng.choice(("larger", "bigger", "greater") if large else ("smaller", "less"))
    q = rng.choice(["Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?", "What is {w}, {a} or {b}?",
                    "{a} or {b}: which is {w}?", "Compare {a} and {b}. Which is {w}?", "which is {w}, {a} or {b}"])
    return Dialogue("compare", [Turn(q.format(w=word, a=a, b=b), compare_work(a, b, large),
                                     str(max(a, b) if large else min(a, b)))], match="last_number")


def skill_sort(rng, split):
    n = rng.choice((3, 3, 4, 4, 5))
    numbers = draw(split, lambda: tuple(rng.sample(range(1, 100), n)))
    down = rng.random() < 0.25
    left, steps = list(numbers), []
    while len(left) > 1:
        pick = max(left) if down else min(left)
        left.remove(pick)
        steps.append(f"{'largest' if down else 'smallest'} {pick}, left {' '.join(map(str, left))}")
    result = ", ".join(map(str, sorted(numbers, reverse=down)))
    listing = ", ".join(map(str, numbers))
    if down:
        q = rng.choice(["Sort {l} from largest to smallest.", "Order {l} from large to small.", "Sort {l} in descending order."])
    else:
        q = rng.choice(["Sort {l}.", "Sort these numbers: {l}.", "Put {l} in order.", "Sort {l} from smallest to largest.",
                        "Order {l} from small to large.", "sort {l}"])
    return Dialogue("sort", [Turn(q.format(l=listing), "; ".join(steps), result, hard_direct=True)])


# --------------------------------------------------------------------------------------- letters

def any_word(rng, split, low=3, high=10):
    """Real words are all for training (many are single tokens); the split is over invented words."""
    def make():
        while True:
            word = world.random_letters(rng) if split == "train" and rng.random() < 0.2 else world.invented_word(rng)
            if low <= len(word) <= high:
                return word
    if split == "train" and rng.random() < 0.3:
        return rng.choice(world.REAL_WORDS)
    return draw(split, make)


def quoted(rng, word):
    return f'"{word}"' if rng.random() < 0.3 else word


def skill_reverse(rng, split, low=3, high=10):
    word = any_word(rng, split, *((5, 8) if split == "test" else (low, high)))
    q = rng.choice(["Reverse the word {w}.", "Reverse {w}.", "reverse {w}", "Write {w} backwards.", "What is {w} backwards?",
                    "Spell {w} backwards.", "What is {w} reversed?", "Write the word {w} in reverse.", "Reverse the letters of {w}.",
                    "Turn the word {w} around."])
    return Dialogue("reverse", [Turn(q.format(w=quoted(rng, word)), f"{' '.join(word)}; back: {' '.join(reversed(word))}",
                                     word[::-1], spelled=True, hard_direct=True)])


def skill_spell(rng, split):
    word = any_word(rng, split)
    q = rng.choice(["Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "spell {w}", "Please spell {w}.",
                    "What are the letters of {w}?", "List the letters of {w}."])
    return Dialogue("spell", [Turn(q.format(w=quoted(rng, word)), "I say each letter.", " ".join(word))])


def skill_count(rng, split):
    word = any_word(rng, split)
    if rng.random() < 0.25:
        q = rng.choice(["How many letters does {w} have?", "How many letters are in {w}?", "Count the letters of {w}.",
                        "How long is the word {w}?"])
        work = ", ".join(f"{c} {i}" for i, c in enumerate(word, 1))
        return Dialogue("count", [Turn(q.format(w=quoted(rng, word)), work, str(len(word)), hard_direct=True)], match="last_number")
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("aeioulrst")
    n, steps = 0, []
    for c in word:
        n += c == letter
        steps.append(f"{c} {n}" if c == letter else c)
    q = rng.choice(["How many {c} are in {w}?", "How many times does {c} occur in {w}?", "Count the letter {c} in {w}.",
                    "How many letters {c} are in the word {w}?", "How often is the letter {c} in {w}?", "How many {c}'s are in {w}?",
                    "How many {c}'s does {w} have?", "How many times is {c} in {w}?"])
    return Dialogue("count", [Turn(q.format(w=quoted(rng, word), c=letter), f"letter {letter}: {' '.join(steps)}, so {n}",
                                   str(n), hard_direct=True)], match="last_number")


# ----------------------------------------------------------------------------------- facts, dates

def fact_turn(rng, fact, split="train"):
    relation, s, o = fact
    sentence, work, phrasings, held_phrasings = RELATIONS[relation]
    q = rng.choice(held_phrasings if split == "test" else phrasings).format(s=s, o=o)
    return Turn(q, work.format(s=s, o=o), sentence.format(s=s, o=o)), o


def skill_facts(rng, split):
    fact = rng.choice(FACTS)
    turn, obj = fact_turn(rng, fact, split)
    if split == "test":
        return Dialogue("facts", [Turn(turn.user, turn.work, obj)], match="contains")
    if rng.random() < 0.04:      # a subject that does not exist
        name = world.invented_word(rng).capitalize()
        sentence, work, phrasings, _ = RELATIONS[fact[0]]
        turn = Turn(rng.choice(phrasings).format(s=name), f"{name}: I do not know it.", f"I do not know {name}.")
    return Dialogue("facts", [turn])


def skill_dates(rng, split):
    kind = rng.random()
    if kind < 0.5:
        n, day, back = draw(split, lambda: (rng.randint(1, rng.choice((6, 13, 30))), rng.randrange(7), rng.random() < 0.35))
        left = n % 7
        step = -1 if back else 1
        walk = [DAYS[(day + step * i) % 7] for i in range(1, left + 1)]
        work = (f"{n}-{n - left}={left}, " if n >= 7 else "") + (f"{DAYS[day]}; " + ", ".join(f"{i} {w}" for i, w in enumerate(walk, 1))
                                                              if walk else f"full weeks, {DAYS[day]}")
        q = rng.choice(["What day is {n} {u} {w} {d}?", "Which day comes {n} {u} {w} {d}?", "Which weekday is {n} {u} {w} {d}?",
                        "What weekday is {n} {u} {w} {d}?"] + ([] if back else ["Today is {d}. What day is it in {n} {u}?",
                        "It is {d}. Which day is it in {n} {u}?"]))
        q = q.format(n=n, u="day" if n == 1 else "days", w="before" if back else "after", d=DAYS[day])
        return Dialogue("dates", [Turn(q, work, DAYS[(day + step * n) % 7], hard_direct=n > 2)])
    if kind < 0.7:
        n, month, back = draw(split, lambda: (rng.randint(1, 8), rng.randrange(12), rng.random() < 0.3))
        step = -1 if back else 1
        walk = [MONTHS[(month + step * i) % 12] for i in range(1, n + 1)]
        q = rng.choice(["Which month comes {n} {u} {w} {m}?", "What month is {n} {u} {w} {m}?"])
        q = q.format(n=n, u="month" if n == 1 else "months", w="before" if back else "after", m=MONTHS[month])
        return Dialogue("dates", [Turn(q, f"{MONTHS[month]}; " + ", ".join(f"{i} {w}" for i, w in enumerate(walk, 1)), walk[-1],
                                       hard_direct=n > 2)])
    month, day, n = draw(split, lambda: (lambda m: (m, rng.randint(1, MONTH_DAYS[m]), rng.randint(1, 20)))(rng.choice([0] + list(range(2, 12)))))
    total = day + n
    size = MONTH_DAYS[month]
    work = f"{day}+{n}={total}, {MONTHS[month]} has {size} days, "
    if total > size:
        work += f"{total}-{size}={total - size}, next month"
        answer = f"{total - size} {MONTHS[(month + 1) % 12]}"
    else:
        work += "same month"
        answer = f"{total} {MONTHS[month]}"
    q = rng.choice(["What date is {n} {u} after {d} {m}?", "Which date comes {n} {u} after {d} {m}?",
                    "It is {d} {m}. What date is it in {n} {u}?", "Today is {d} {m}. Which date is it in {n} {u}?"])
    return Dialogue("dates", [Turn(q.format(n=n, u="day" if n == 1 else "days", d=day, m=MONTHS[month]), work, answer, hard_direct=True)])


# --------------------------------------------------------------------- instructions and dialogues

ONE_WORD = ["Answer with one word.", "One word only.", "Reply with a single word.", "Just one word, please.", "Use one word.",
            "Give a one word answer.", "Answer in one word."]
NO_THINK = ["Answer without thinking.", "Do not think, just answer.", "No thinking, please.", "Skip the thinking.",
            "Answer directly, without thinking.", "Don't think.", "Please answer without thinking.", "Without thinking, please.",
            "Answer at once, do not think.", "without thinking"]


def instructed(rng, question, instruction):
    if rng.random() < 0.2:
        return f"{instruction} {question}"
    if question[-1] not in ".?":
        question += rng.choice((".", "?", ","))
    return f"{question} {instruction}"


def skill_one_word(rng, split):
    turn, obj = draw(split, lambda: fact_turn(rng, rng.choice(FACTS)), lambda v: ("one word", v[0].user))
    return Dialogue("one_word", [Turn(instructed(rng, turn.user, rng.choice(ONE_WORD)), turn.work, obj)])


def skill_no_think(rng, split):
    maker = rng.choice((skill_add2, skill_add, skill_sub, skill_mul, skill_compare, skill_spell, skill_dates, skill_reverse,
                        skill_count, skill_facts, skill_facts, skill_facts, skill_one_word))
    inner = maker(rng, split).turns[0]
    turn = Turn(instructed(rng, inner.user, rng.choice(NO_THINK)), "", inner.answer, inner.spelled, inner.hard_direct)
    return Dialogue("no_think", [turn], match="no_think")


def skill_multi_turn(rng, split):
    kind = rng.random()
    if kind < 0.6 or split == "test":
        op = rng.choice("++-*")
        a, b = draw(split, lambda: (rng.randint(2, 60), rng.randint(1, 40) if op != "*" else rng.randint(2, 9)), lambda v: (op, "chain", *v))
        if op == "-" and a < b:
            a, b = b, a
        while split == "train" and held(*pair_key(op)((a, b))):       # nor may a pair that another skill holds out slip in here
            a = rng.randint(2, 60)
            a, b = (b, a) if op == "-" and a < b else (a, b)
        turns = [arithmetic_turn(rng, op, a, b)]
        value = int(turns[0].answer)
        for _ in range(1 if split == "test" else rng.choice((1, 1, 2))):
            op = rng.choice("++-*" if value < 100 else "++-")
            work, f, _, follow = ARITHMETIC[op]
            for _ in range(100):
                n = rng.randint(2, 9) if op == "*" else rng.randint(1, min(value, 50)) if op == "-" and value else rng.randint(1, 50)
                if split == "test" or not held(*pair_key(op)((value, n))):
                    break
            turns.append(Turn(rng.choice(follow).format(b=n), work(value, n), str(f(value, n)), hard_direct=True))
            value = f(value, n)
        return Dialogue("multi_turn", turns, match="last_number")
    if kind < 0.8:
        relation = rng.choice([r for r in RELATIONS if r not in ("month_days", "planet_order")])
        pool = [f for f in FACTS if f[0] == relation]
        first, second = rng.sample(pool, 2)
        turn1, _ = fact_turn(rng, first)
        turn2, _ = fact_turn(rng, second)
        turn2.user = rng.choice(["and {s}?", "And {s}?", "what about {s}?", "And for {s}?", "How about {s}?"]).format(s=second[1])
        return Dialogue("multi_turn", [turn1, turn2])
    word = any_word(rng, split)
    first = rng.choice((Turn(f"Spell {word}.", "I say each letter.", " ".join(word)),
                        Turn(f"Reverse {word}.", f"{' '.join(word)}; back: {' '.join(reversed(word))}", word[::-1], True, True)))
    if first.spelled:
        second = Turn(rng.choice(["Now spell the word.", "And spell it?"]), f"The word was {word}.", " ".join(word))
    else:
        second = Turn(rng.choice(["Now reverse it.", "And backwards?", "and reversed?"]),
                      f"{' '.join(word)}; back: {' '.join(reversed(word))}", word[::-1], True, True)
    return Dialogue("multi_turn", [first, second])


STORY_ASK = ["Tell me a story about {h}.", "Tell me a short story about {h}.", "Write a story about {h}.", "A story about {h}, please.",
             "Can you tell a story about {h}?"]
STORY_PLACE = ["Tell me a story about {h} in the {p}.", "Write a short story about {h} who lives in the {p}.",
               "Tell me about {h} in the {p}.", "A story about {h} from the {p}, please.", "Tell a story: {h} in the {p}.",
               "Write a story about {h} in the {p}.", "Can you tell a story about {h} in the {p}?", "Story of {h} in the {p}",
               "I want a story about {h} in the {p}.", "Please write a story about {h} from the {p}.",
               "Make up a story about {h} in the {p}."]


def skill_story(rng, split):
    hero, place = draw(split, lambda: (rng.choice(world.HEROES), rng.choice(world.PLACES)))
    text = world.story(rng, hero, place)
    r = rng.random()
    if r < 0.15 and split == "train":
        return Dialogue("story", [Turn(rng.choice(["Tell me a story.", "Tell me a short story.", "Write a story.", "A story, please."]),
                                       "A short story.", text)])
    if r < 0.6 or split == "test":
        q = rng.choice(STORY_PLACE).format(h=world.a(hero), p=place)
        return Dialogue("story", [Turn(q, f"A story: {hero}, {place}.", text if split == "train" else f"{hero} named")], match="contains")
    return Dialogue("story", [Turn(rng.choice(STORY_ASK).format(h=world.a(hero)), f"A story: {hero}.", text)])


def skill_self(rng, split):
    if rng.random() < 0.3:
        thing = rng.choice(world.REAL_WORDS + ["Python", "French", "London", "music", "physics", "Latin", "my boss", "history", "C", "German"])
        return Dialogue("self", [Turn(rng.choice(world.BEYOND).format(x=thing), "I have not learned this.", world.BEYOND_ANSWER)])
    asks, answer = rng.choice(world.SELF)
    return Dialogue("self", [Turn(rng.choice(asks), "A simple question.", answer)])


def skill_text(rng, split):
    """Plain text without chat markers: stories and paragraphs of facts."""
    paragraphs = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            hero, place = draw(split, lambda: (rng.choice(world.HEROES), rng.choice(world.PLACES)))
            paragraphs.append(world.story(rng, hero, place))
        else:
            picks = rng.sample(FACTS, rng.randint(3, 6))
            paragraphs.append(" ".join(RELATIONS[r][0].format(s=s, o=o) for r, s, o in picks))
    return Dialogue("text", text="\n".join(paragraphs))


SKILLS = {f.__name__[6:]: f for f in (
    skill_add2, skill_add, skill_sub, skill_mul, skill_compare, skill_sort, skill_reverse, skill_spell, skill_count, skill_facts,
    skill_dates, skill_one_word, skill_no_think, skill_multi_turn, skill_story, skill_self, skill_text)}

MIX = dict(add2=10, add=7, sub=12, mul=8, compare=7, sort=7, reverse=16, spell=9, count=8, facts=12, dates=7, one_word=9, no_think=5,
           multi_turn=8, story=2, self=2, text=2)
TASK_SKILLS = [s for s in SKILLS if s not in ("self", "text")]
SYSTEM = ["You are a helpful assistant.", "Be brief.", "You are the Tandem demo model.", "Answer the user's questions.", "Be kind and brief."]


def sample(rng, mix=MIX):
    """One training dialogue."""
    skill = rng.choices(list(mix), list(mix.values()))[0]
    d = SKILLS[skill](rng, "train")
    if d.text:
        return d
    d.think = rng.random() < (0.93 if skill in ("no_think", "multi_turn") else 0.85)
    if rng.random() < 0.06:
        d.system = rng.choice(SYSTEM)
    if len(d.turns) == 1 and rng.random() < 0.1:      # an unrelated turn before the real one
        before = SKILLS[rng.choice(("facts", "facts", "self", "add2", "spell", "compare"))](rng, "train")
        d.turns = before.turns[:1] + d.turns
    for turn in d.turns:
        if rng.random() < 0.12:
            turn.user = turn.user.rstrip(".?!") or turn.user
        if rng.random() < 0.08:
            turn.user = turn.user[0].lower() + turn.user[1:]
        if rng.random() < 0.05:
            turn.user = "Please " + turn.user[0].lower() + turn.user[1:]
    return d


# ------------------------------------------------------------------------------------- held-out files

def write_tasks(path, per_skill, seed):
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as out:
        for skill in TASK_SKILLS:
            seen = set()
            for _ in range(100 * per_skill):
                if len(seen) == per_skill:
                    break
                d = SKILLS[skill](rng, "test")
                messages = []
                for turn in d.turns:
                    messages += [dict(role="user", content=turn.user), dict(role="assistant", content=turn.answer)]
                key = json.dumps(messages[:-1])
                if key in seen:
                    continue
                seen.add(key)
                out.write(json.dumps(dict(skill=skill, messages=messages[:-1], think=True, answer=d.turns[-1].answer,
                                          match=d.match)) + "\n")


def write_heldout(path, n_bytes, seed):
    rng = random.Random(seed)
    size = 0
    with open(path, "w", encoding="utf-8") as out:
        while size < n_bytes:
            text = skill_text(rng, "test").text + "\n"
            size += len(text)
            out.write(text)


def show(d):
    if d.text:
        return d.text
    lines = [f"[{d.skill}] {d.system}"]
    for i, turn in enumerate(d.turns):
        last = i == len(d.turns) - 1
        lines.append(f"  U: {turn.user}\n  A: {'<think>' + turn.work if last and d.think else ''}</think>{turn.answer}")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tasks", help="write held-out questions here")
    p.add_argument("--per-skill", type=int, default=240)
    p.add_argument("--heldout", help="write held-out plain text here")
    p.add_argument("--heldout-bytes", type=int, default=60000)
    p.add_argument("--show", type=int, default=0, metavar="N", help="print N training samples")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    if a.tasks:
        write_tasks(a.tasks, a.per_skill, a.seed)
    if a.heldout:
        write_heldout(a.heldout, a.heldout_bytes, a.seed)
    rng = random.Random(a.seed)
    for _ in range(a.show):
        print(show(sample(rng)))


if __name__ == "__main__":
    main()
