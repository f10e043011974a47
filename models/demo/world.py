"""The closed world of the demo model: its words, its facts, its story grammar.

A fact is (relation, subject, object). Every relation has several phrasings of the question;
the phrasings under "held" never occur in training text and are used for the held-out test.
"""
import random

# ---------------------------------------------------------------- words for spelling and reversing

REAL_WORDS = """
apple acorn anchor autumn badge baker banana barrel basket beach bottle branch bread breeze bridge
bright broken bucket butter button cabin camel candle canvas carpet carrot castle cattle cellar chair
cheese cherry chicken circle clever clock cloud coffee copper corner cotton cousin cradle crystal
curtain dagger dancer desert dinner doctor dollar donkey dragon drawer dream eagle earth engine evening
fabric falcon family farmer feather fence field finger flame flower forest fossil fountain friend
frozen galaxy garden garlic gentle giant ginger glass glove golden grape gravel green guitar hammer
harbor harvest heart helmet honest honey horse hotel house hunter island ivory jacket jelly jewel
jungle kettle kitchen kitten ladder lantern laptop laughter lemon lesson letter library light lizard
lunch magnet mango marble market meadow melon metal middle mirror monkey morning motor mountain mouse
museum music needle nephew north nurse ocean office olive onion orange orchard oven oyster paint palace
panda paper parrot pencil pepper piano picture pillow pirate planet plate pocket poet pond potato powder
prince purple puzzle queen quiet rabbit radio rainbow raven river robot rocket rubber saddle sailor salad
salmon sandal school scissors season secret shadow sheep shelter shoulder silent silver simple singer
sister skate smile smoke snake soldier south spider spoon spring square squirrel stable station stone
storm story strange strawberry stream street student sugar summer sunset table tailor teacher temple
thunder ticket tiger timber tomato tower train travel treasure tree trumpet tulip tunnel turtle umbrella
uncle valley vessel village violin volcano wagon walnut water weather wheel whisper window winter wisdom
wizard wolf wonder wooden yellow yogurt zebra
""".split()

ONSETS = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sk sl st t th tr v w z".split()
VOWELS = "a e i o u ai ea oo ou".split()
CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "d", "ck", "nd", "x"]


def invented_word(rng):
    """A pronounceable word of 3 to 10 letters."""
    while True:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
                       for _ in range(rng.choice((1, 2, 2, 3))))
        if 3 <= len(word) <= 10:
            return word


def random_letters(rng):
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 8)))


# ------------------------------------------------------------------------------------------- facts

COUNTRIES = """
France Paris Europe|Spain Madrid Europe|Italy Rome Europe|Germany Berlin Europe|Portugal Lisbon Europe
Austria Vienna Europe|Greece Athens Europe|Poland Warsaw Europe|Hungary Budapest Europe|Sweden Stockholm Europe
Norway Oslo Europe|Finland Helsinki Europe|Denmark Copenhagen Europe|Ireland Dublin Europe|Iceland Reykjavik Europe
Belgium Brussels Europe|Czechia Prague Europe|Romania Bucharest Europe|Bulgaria Sofia Europe|Croatia Zagreb Europe
Serbia Belgrade Europe|Ukraine Kyiv Europe|Latvia Riga Europe|Estonia Tallinn Europe|Lithuania Vilnius Europe
Switzerland Bern Europe|Russia Moscow Europe|England London Europe|Japan Tokyo Asia|China Beijing Asia
Thailand Bangkok Asia|Vietnam Hanoi Asia|Nepal Kathmandu Asia|Mongolia Ulaanbaatar Asia|Iran Tehran Asia
Iraq Baghdad Asia|Turkey Ankara Asia|Jordan Amman Asia|Qatar Doha Asia|Oman Muscat Asia|Lebanon Beirut Asia
Egypt Cairo Africa|Kenya Nairobi Africa|Ghana Accra Africa|Morocco Rabat Africa|Tunisia Tunis Africa
Nigeria Abuja Africa|Senegal Dakar Africa|Uganda Kampala Africa|Zambia Lusaka Africa
Angola Luanda Africa|Mali Bamako Africa|Canada Ottawa America|Cuba Havana America|Peru Lima America
Chile Santiago America|Ecuador Quito America|Colombia Bogota America|Uruguay Montevideo America
Paraguay Asuncion America|Venezuela Caracas America|Jamaica Kingston America|Brazil Brasilia America
Australia Canberra Oceania|Fiji Suva Oceania|Samoa Apia Oceania
""".replace("\n", "|").split("|")
COUNTRIES = [c.split() for c in COUNTRIES if c.strip()]

PAIRS = {
    "young": """cow calf|dog puppy|cat kitten|horse foal|sheep lamb|goat kid|pig piglet|hen chick|duck duckling
goose gosling|bear cub|deer fawn|frog tadpole|kangaroo joey|swan cygnet|owl owlet|eagle eaglet|butterfly caterpillar
hare leveret|seal pup|fish fry|whale calf""",
    "sound": """cow moo|dog bark|cat meow|horse neigh|sheep baa|pig oink|duck quack|lion roar|wolf howl|snake hiss
bee buzz|crow caw|owl hoot|frog croak|mouse squeak|donkey bray|bird chirp|hen cluck""",
    "opposite": """hot cold|big small|tall short|fast slow|light dark|day night|up down|left right|open closed|wet dry
old new|young old|happy sad|rich poor|strong weak|early late|full empty|hard soft|high low|clean dirty|near far
loud quiet|heavy light|thick thin|wide narrow|deep shallow|sweet sour|true false|good bad|first last|begin end
win lose|push pull|buy sell|love hate|friend enemy|in out|front back|top bottom|inside outside""",
    "symbol": """hydrogen H|helium He|carbon C|nitrogen N|oxygen O|neon Ne|sodium Na|magnesium Mg|sulfur S|chlorine Cl
potassium K|calcium Ca|iron Fe|copper Cu|zinc Zn|silver Ag|tin Sn|gold Au|mercury Hg|lead Pb|uranium U|iodine I
nickel Ni|silicon Si|lithium Li""",
    "legs": """spider 8|ant 6|bee 6|cat 4|dog 4|hen 2|horse 4|snake 0|crab 10|beetle 6|duck 2|fly 6|scorpion 8|cow 4
fish 0|ostrich 2""",
    "sides": """triangle 3|square 4|pentagon 5|hexagon 6|heptagon 7|octagon 8|nonagon 9|decagon 10|rectangle 4""",
    "colour": """banana yellow|grass green|snow white|coal black|blood red|carrot orange|sky blue|lemon yellow|tomato red
milk white|chocolate brown|raven black|cucumber green|plum purple|flamingo pink|elephant grey|cherry red|frog green""",
    "planet_order": """Mercury 1|Venus 2|Earth 3|Mars 4|Jupiter 5|Saturn 6|Uranus 7|Neptune 8""",
    "month_days": """January 31|March 31|April 30|May 31|June 30|July 31|August 31|September 30|October 31|November 30
December 31""",
}

# The invented archipelago of Ilmar: every town has a river, a mayor and a trade.
TOWNS = """Velmora Tarrin Oskelle Brindal Quessa Hovarth Lumere Pellin Drossa Kintara Marvel Isenbrook Tolmach Wendry
Fallowen Garrick Narwick Sorrel Umberly Yarrow Cobalin Ardenne Pintop Rosmoor Jessamy Zandolin Elkhurst Morwen
Thistle Calloway Bexford Stillmere Dunlow Corvane Hazelby Merrit Oldenport Ravensey Silcott Windle""".split()
RIVERS = """Ashen Bellow Crane Dimple Ember Fennel Glint Heron Inkwell Jasper Kestrel Lark Mallow Nettle Otter
Pebble Quill Rusty Swift Tansy""".split()
MAYORS = """Agnes Bruno Clara Dario Edith Felix Greta Hugo Irma Jonas Karin Leo Mabel Nils Olga Pablo Rosa Stefan
Tilda Victor""".split()
TRADES = """boats bells bricks cheese candles carpets clocks drums glass gloves hats honey kites knives lamps paper
pears pots ropes salt shoes soap tea wool""".split()

# relation: (answer sentence, short working, training phrasings, held-out phrasings)
RELATIONS = {
    "capital": ("The capital of {s} is {o}.", "{s}, capital: {o}.",
        ["What is the capital of {s}?", "Which city is the capital of {s}?", "Name the capital of {s}.",
         "Tell me the capital of {s}.", "capital of {s}", "What city is {s}'s capital?", "{s} has which capital?",
         "What is the name of the capital of {s}?", "Do you know the capital of {s}?"],
        ["Can you tell me which city is the capital of {s}?", "I would like to know the capital of {s}."]),
    "continent": ("{s} is in {o}.", "{s}, continent: {o}.",
        ["On which continent is {s}?", "What continent is {s} in?", "Which continent does {s} belong to?",
         "Name the continent of {s}.", "Tell me the continent of {s}.", "In which continent can I find {s}?",
         "On what continent does {s} lie?", "continent of {s}"],
        ["Can you tell me on which continent {s} is?", "Do you know the continent of {s}?"]),
    "young": ("A young {s} is called a {o}.", "{s}, young: {o}.",
        ["What is a young {s} called?", "What do you call a baby {s}?", "Name the young of a {s}.",
         "How is a young {s} called?", "What is the name for a baby {s}?", "Tell me what a baby {s} is called.",
         "What is the young of a {s}?"],
        ["Do you know what a young {s} is called?", "What is the word for a young {s}?"]),
    "sound": ("A {s} makes the sound {o}.", "{s}, sound: {o}.",
        ["What sound does a {s} make?", "Which sound does a {s} make?", "What noise does a {s} make?",
         "Name the sound of a {s}.", "Tell me the sound of a {s}.", "How does a {s} sound?",
         "What is the sound of a {s}?"],
        ["Can you tell me what sound a {s} makes?", "Do you know the noise of a {s}?"]),
    "opposite": ("The opposite of {s} is {o}.", "{s}, opposite: {o}.",
        ["What is the opposite of {s}?", "Name the opposite of {s}.", "Tell me the opposite of {s}.",
         "Which word is the opposite of {s}?", "opposite of {s}", "Give me the opposite of {s}.",
         "What word means the opposite of {s}?", "{s} has which opposite?"],
        ["Do you know the opposite of {s}?", "Can you tell me which word is the opposite of {s}?"]),
    "symbol": ("The symbol of {s} is {o}.", "{s}, symbol: {o}.",
        ["What is the chemical symbol of {s}?", "What is the symbol for {s}?", "Name the symbol of {s}.",
         "Which symbol does {s} have?", "Tell me the chemical symbol for {s}.", "symbol of {s}",
         "How is {s} written in chemistry?"],
        ["Do you know the chemical symbol of {s}?", "Can you tell me which symbol {s} has?"]),
    "legs": ("A {s} has {o} legs.", "{s}, legs: {o}.",
        ["How many legs does a {s} have?", "What number of legs does a {s} have?", "A {s} has how many legs?",
         "Tell me how many legs a {s} has.", "How many legs are there on a {s}?", "Count the legs of a {s}."],
        ["Can you tell me how many legs a {s} has?", "Do you know the number of legs of a {s}?"]),
    "sides": ("A {s} has {o} sides.", "{s}, sides: {o}.",
        ["How many sides does a {s} have?", "What number of sides does a {s} have?", "A {s} has how many sides?",
         "Tell me how many sides a {s} has.", "How many sides are there in a {s}?", "Count the sides of a {s}."],
        ["Can you tell me how many sides a {s} has?", "Do you know the number of sides of a {s}?"]),
    "colour": ("The colour of {s} is {o}.", "{s}, colour: {o}.",
        ["What colour is {s}?", "What is the colour of {s}?", "Which colour does {s} have?", "What color is {s}?",
         "Name the colour of {s}.", "Tell me the color of {s}."],
        ["Can you tell me which colour {s} is?", "Do you know the colour of {s}?"]),
    "planet_order": ("{s} is planet number {o} from the Sun.", "{s}, place from the Sun: {o}.",
        ["Which place from the Sun does {s} have?", "What number from the Sun is {s}?",
         "What is the place of {s} among the planets?", "{s} is which planet from the Sun?",
         "Counting from the Sun, which number is {s}?", "Tell me the number of the planet {s} from the Sun."],
        ["Do you know which number from the Sun {s} is?", "Which planet from the Sun is {s}, by number?"]),
    "month_days": ("{s} has {o} days.", "{s}, days: {o}.",
        ["How many days does {s} have?", "What number of days does {s} have?", "{s} has how many days?",
         "How many days are there in {s}?", "Tell me how many days {s} has.", "How long is {s} in days?"],
        ["Can you tell me how many days {s} has?", "Do you know the number of days in {s}?"]),
    "river": ("{s} stands on the river {o}.", "{s}, river: {o}.",
        ["On which river does {s} stand?", "Which river flows through {s}?", "What is the river of {s}?",
         "Name the river of {s}.", "Tell me the river of {s}.", "What river is {s} on?",
         "Which river does the town of {s} have?"],
        ["Can you tell me which river flows through {s}?", "Do you know the river of {s}?"]),
    "mayor": ("The mayor of {s} is {o}.", "{s}, mayor: {o}.",
        ["Who is the mayor of {s}?", "What is the name of the mayor of {s}?", "Name the mayor of {s}.",
         "Tell me the mayor of {s}.", "Which person is mayor of {s}?", "{s} has which mayor?",
         "Who governs {s} as mayor?"],
        ["Do you know the mayor of {s}?", "Can you tell me who is the mayor of {s}?"]),
    "trade": ("{s} is famous for its {o}.", "{s}, famous for: {o}.",
        ["What is {s} famous for?", "What is the town of {s} famous for?", "For what is {s} famous?",
         "What is made in {s}?", "Tell me what {s} is famous for.", "What do they make in {s}?",
         "Which famous thing comes from {s}?"],
        ["Can you tell me what {s} is famous for?", "Do you know what is made in {s}?"]),
}


def build_facts():
    """All (relation, subject, object) triples, in a fixed order."""
    facts = [("capital", c, cap) for c, cap, _ in COUNTRIES]
    facts += [("continent", c, cont) for c, _, cont in COUNTRIES]
    for relation, text in PAIRS.items():
        for pair in text.replace("\n", "|").split("|"):
            subject, obj = pair.split()
            facts.append((relation, subject, obj))
    rng = random.Random(7)
    for town in TOWNS:
        facts.append(("river", town, rng.choice(RIVERS)))
        facts.append(("mayor", town, rng.choice(MAYORS)))
        facts.append(("trade", town, rng.choice(TRADES)))
    return facts


FACTS = build_facts()

# ------------------------------------------------------------------------- what the model is and is not

SELF = [
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "who are you", "Introduce yourself.",
      "Are you a person?", "Are you a human?"],
     "I am the Tandem demo model, a very small language model with the design of DeepSeek-V3. I am not a person."),
    (["What can you do?", "How can you help me?", "What do you know?", "help", "What are you good at?", "What can I ask you?"],
     "I can add, subtract and multiply small numbers, compare and sort numbers, reverse and spell words, count letters, "
     "count days, tell short stories and answer questions about a small world of facts."),
    (["What can you not do?", "What can't you do?", "What are your limits?", "What don't you know?", "Are you smart?",
      "Do you know everything?"],
     "I am very small. I can not translate, write programs, browse, or know the news, and I often fail outside the few "
     "things that I have learned."),
    (["How big are you?", "How many parameters do you have?", "How large are you?", "What is your size?"],
     "I have about 11 million parameters, thousands of times fewer than a large model."),
    (["Who made you?", "Who trained you?", "Where do you come from?"],
     "I was trained for the Tandem project on text from its own generator."),
    (["Hello!", "Hi!", "Hello", "hi", "Hey there", "Good morning!", "Good evening!", "Hello, how are you?", "Hi there!",
      "hey", "How are you?"],
     "Hello! I am a small demo model. Ask me to add numbers, reverse a word or tell a story."),
    (["Thank you!", "Thanks!", "thanks", "Thank you very much.", "Great, thanks.", "Well done!"], "You are welcome!"),
    (["Goodbye!", "Bye!", "bye", "See you later.", "Good night!"], "Goodbye! Come back soon."),
]
BEYOND = ["Write a program in {x}.", "Translate this into {x}.", "What is the weather in {x}?", "What is the news from {x}?",
          "Write an email to {x}.", "Draw a picture of {x}.", "What is the price of {x}?", "Play the song {x}.",
          "Who won the match in {x}?", "Book a flight to {x}.", "What do you think about {x}?", "Explain {x} to me.",
          "Write a poem about {x}.", "Give me a recipe with {x}."]
BEYOND_ANSWER = "I can not do that. I am a small demo model and only know a few simple things."

# ----------------------------------------------------------------------------------------- story grammar

HEROES = "fox bear mouse rabbit owl cat dog wolf goat frog hen duck turtle squirrel pony donkey crow otter robot dragon".split()
NAMES = """Milo Tess Pip Nora Bram Luna Otto Ivy Finn Ruby Gus Wren Toby Elsa Max Rosie Sam Lily Jack Mina""".split()
PLACES = ["forest", "village", "valley", "harbor", "garden", "castle", "mill", "cave", "meadow", "desert"]
GOALS = [("a golden key", "the old gate", "opened"), ("a red kite", "the windy hill", "flew over"),
         ("a warm coat", "the long winter", "got through"), ("a silver bell", "the quiet tower", "rang in"),
         ("a map", "the hidden lake", "reached"), ("a lantern", "the dark cave", "lit up"),
         ("a small boat", "the wide river", "crossed"), ("a blue stone", "the broken bridge", "repaired")]
MOODS = ["brave", "shy", "clever", "lazy", "kind", "curious", "small", "gentle", "cheerful", "quiet"]
WEATHER = ["One sunny morning", "One rainy day", "One cold evening", "One windy night", "Early one day", "Late in autumn"]
TROUBLES = ["But a storm came and the path was lost.", "But a deep hole was in the way.", "But the night was very dark.",
            "But the bridge was too old to cross.", "But a big stone blocked the road.", "But there was no food left."]
ENDINGS = ["From that day on they were best friends.", "Then they went home and slept well.",
           "And everyone in the {p} was happy.", "And {n} never forgot that day.", "They laughed all the way home."]


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def story(rng, hero=None, place=None):
    """A short coherent story: one hero, one friend, one wish, one trouble, one ending."""
    hero = hero or rng.choice(HEROES)
    place = place or rng.choice(PLACES)
    friend = rng.choice([h for h in HEROES if h != hero])
    name, friend_name = rng.sample(NAMES, 2)
    thing, target, verb = rng.choice(GOALS)
    mood = rng.choice(MOODS)
    out = [f"Once there was a {mood} {hero} named {name} who lived in the {place}.",
           f"{rng.choice(WEATHER)}, {name} wanted to find {thing}.",
           rng.choice([f"So {name} walked for hours and looked everywhere.", f"So {name} packed some bread and set out.",
                       f"Nobody in the {place} knew where it was."]),
           rng.choice(TROUBLES),
           rng.choice([f"Then {a(friend)} named {friend_name} came and offered to help.",
                       f"There {name} met {a(friend)} named {friend_name}."]),
           rng.choice([f"Together they found {thing} under a tree.", f"{friend_name} knew the way, and soon they found {thing}.",
                       f'"Do not give up," said {friend_name}, and at last they found {thing}.']),
           f"With it {name} {verb} {target}.",
           rng.choice(ENDINGS).format(p=place, n=name)]
    return " ".join(out)
