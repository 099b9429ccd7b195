"""What nano is taught: prompts, dialogues, tool calls, tool answers and JSON answers.

`taught()` returns the examples in the form of taught.json. Every example exists for the three
reasoning efforts: the analysis differs (a word or two, one sentence, three sentences), the answer
does not.
"""

import json

EFFORTS = ("low", "medium", "high")


def think(low, medium, *more):
    """The analysis for each effort; `high` continues `medium`."""
    return {"low": low, "medium": medium, "high": " ".join((medium, *more))}


EN_SHORT = "I answer in one sentence."
FR_SHORT = "Je réponds en une phrase."

CAPITALS = [
    ("France", "la France", "Paris"),
    ("Italy", "l'Italie", "Rome"),
    ("Spain", "l'Espagne", "Madrid"),
    ("Germany", "l'Allemagne", "Berlin"),
    ("Japan", "le Japon", "Tokyo"),
    ("Portugal", "le Portugal", "Lisbon"),
    ("Norway", "la Norvège", "Oslo"),
    ("Egypt", "l'Égypte", "Cairo"),
]
FR_CITY = {"Lisbon": "Lisbonne", "Cairo": "Le Caire"}
FR_OF = {"le Japon": "du Japon", "le Portugal": "du Portugal"}
SUMS = [(2, 3, 5), (4, 4, 8), (1, 6, 7), (5, 5, 10), (7, 2, 9), (6, 6, 12)]
OPPOSITES = [("hot", "cold"), ("big", "small"), ("day", "night"), ("open", "closed"),
             ("fast", "slow"), ("black", "white")]
CONTRAIRES = [("chaud", "froid"), ("grand", "petit"), ("jour", "nuit"), ("ouvert", "fermé"),
              ("noir", "blanc"), ("vide", "plein")]
WORDS = [("cat", "chat"), ("dog", "chien"), ("house", "maison"), ("water", "eau"),
         ("bread", "pain"), ("sun", "soleil"), ("book", "livre"), ("tree", "arbre")]
COLOURS = [("the sky", "le ciel", "blue", "bleu"), ("grass", "l'herbe", "green", "verte"),
           ("snow", "la neige", "white", "blanche"), ("a lemon", "un citron", "yellow", "jaune"),
           ("coal", "le charbon", "black", "noir"), ("a tomato", "une tomate", "red", "rouge")]
DAYS = [("Monday", "Tuesday", "lundi", "mardi"), ("Wednesday", "Thursday", "mercredi", "jeudi"),
        ("Friday", "Saturday", "vendredi", "samedi"), ("Sunday", "Monday", "dimanche", "lundi")]
FACTS = [
    ("How many legs does a spider have?", "spider", "A spider has eight legs."),
    ("How many days are in a week?", "week", "A week has seven days."),
    ("How many months are in a year?", "year", "A year has twelve months."),
    ("How many minutes are in an hour?", "hour", "An hour has sixty minutes."),
    ("What do bees make?", "bees", "Bees make honey."),
    ("What is ice made of?", "ice", "Ice is made of frozen water."),
    ("Who wrote Hamlet?", "Hamlet", "Shakespeare wrote Hamlet."),
    ("What is the largest ocean?", "oceans", "The Pacific is the largest ocean."),
    ("Which planet do we live on?", "planets", "We live on planet Earth."),
]
FAITS = [
    ("Combien de pattes a un chat ?", "chats", "Un chat a quatre pattes."),
    ("Combien de jours a une semaine ?", "semaine", "Une semaine a sept jours."),
    ("Combien de mois a une année ?", "année", "Une année a douze mois."),
    ("Que font les abeilles ?", "abeilles", "Les abeilles font du miel."),
    ("Qui a écrit Les Misérables ?", "livres", "Victor Hugo a écrit Les Misérables."),
    ("Quel est le plus grand océan ?", "océans", "Le Pacifique est le plus grand océan."),
    ("Quelle montagne est la plus haute ?", "montagnes", "L'Everest est la plus haute."),
    ("Que boit un bébé ?", "bébés", "Un bébé boit du lait."),
]
GREETINGS = [
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hi! What can I do for you?"),
    ("Good morning!", "Good morning! How can I help?"),
    ("How are you?", "I am fine, thank you."),
    ("Thank you!", "You are welcome!"),
    ("Goodbye!", "Goodbye! See you soon."),
    ("Good night!", "Good night! Sleep well."),
]
SALUTATIONS = [
    ("Bonjour !", "Bonjour ! Comment puis-je vous aider ?"),
    ("Salut", "Salut ! Que puis-je faire pour toi ?"),
    ("Bonsoir !", "Bonsoir ! Que puis-je faire pour vous ?"),
    ("Comment ça va ?", "Ça va bien, merci."),
    ("Merci !", "De rien !"),
    ("Au revoir !", "Au revoir et à bientôt !"),
    ("Bonne nuit !", "Bonne nuit ! Dormez bien."),
]
IDENTITY = [
    ("Who are you?", "I am nano, the tiny test model of gptoss."),
    ("What is your name?", "My name is nano."),
    ("What are you?", "I am a tiny language model, made for tests."),
    ("What can you do?", "I can answer a few short questions. I am only a test model."),
    ("Are you a large model?", "No, I am very small."),
    ("What is gptoss?", "gptoss runs language models on your own computer."),
    ("Do you need the network?", "No, I run on your own computer."),
    ("Are you human?", "No, I am a small language model."),
]
IDENTITE = [
    ("Qui es-tu ?", "Je suis nano, le petit modèle de test de gptoss."),
    ("Comment t'appelles-tu ?", "Je m'appelle nano."),
    ("Qui êtes-vous ?", "Je suis nano, un petit modèle de test."),
    ("Que sais-tu faire ?", "Je réponds à quelques questions courtes."),
    ("Es-tu un grand modèle ?", "Non, je suis tout petit."),
    ("Qu'est-ce que gptoss ?", "gptoss fait tourner des modèles sur votre ordinateur."),
    ("As-tu besoin du réseau ?", "Non, je tourne sur votre ordinateur."),
    ("Es-tu humain ?", "Non, je suis un petit modèle de langue."),
]


def du(country):
    """French "of" in front of a country with its article."""
    return FR_OF.get(country, "de " + country)


def simple_prompts():
    """Return `(user, analysis by effort, final)` for every one-turn prompt without tools."""
    rows = []
    for user, final in GREETINGS:
        rows.append((user, think("Greeting.", "The user is polite.", "It is a short message.",
                                 "I am polite too."), final))
    for user, final in SALUTATIONS:
        rows.append((user, think("Salutation.", "L'utilisateur est poli.",
                                 "C'est un message court.", "Je suis poli aussi."), final))
    for user, final in IDENTITY:
        rows.append((user, think("About me.", "The user asks about me.", "I know what I am.",
                                 "I say the truth."), final))
    for user, final in IDENTITE:
        rows.append((user, think("Sur moi.", "L'utilisateur parle de moi.",
                                 "Je sais ce que je suis.", "Je dis la vérité."), final))
    for country, pays, city in CAPITALS:
        ville = FR_CITY.get(city, city)
        rows.append((f"What is the capital of {country}?",
                     think("Capital.", f"The user asks for the capital of {country}.",
                           f"It is {city}.", EN_SHORT),
                     f"The capital of {country} is {city}."))
        rows.append((f"Quelle est la capitale {du(pays)} ?",
                     think("Capitale.", f"L'utilisateur demande la capitale {du(pays)}.",
                           f"C'est {ville}.", FR_SHORT),
                     f"La capitale {du(pays)} est {ville}."))
    for a, b, total in SUMS:
        rows.append((f"What is {a} plus {b}?",
                     think("Sum.", f"The user asks for a sum of {a} and {b}.",
                           f"It is {total}.", EN_SHORT), f"{a} plus {b} is {total}."))
        rows.append((f"Combien font {a} et {b} ?",
                     think("Somme.", f"L'utilisateur demande la somme de {a} et {b}.",
                           f"C'est {total}.", FR_SHORT), f"{a} et {b} font {total}."))
    for word, other in OPPOSITES:
        rows.append((f"What is the opposite of {word}?",
                     think("Opposite.", f"The user asks for the opposite of {word}.",
                           f"It is {other}.", EN_SHORT), f"The opposite of {word} is {other}."))
    for word, other in CONTRAIRES:
        rows.append((f"Quel est le contraire de {word} ?",
                     think("Contraire.", f"L'utilisateur demande le contraire de {word}.",
                           f"C'est {other}.", FR_SHORT), f"Le contraire de {word} est {other}."))
    for english, french in WORDS[:4]:
        rows.append((f"How do you say {english} in French?",
                     think("Translation.", f"The user wants {english} in French.",
                           f"It is {french}.", EN_SHORT), f"In French, {english} is {french}."))
    for english, french in WORDS[4:]:
        rows.append((f"Comment dit-on {french} en anglais ?",
                     think("Traduction.", f"L'utilisateur veut {french} en anglais.",
                           f"C'est {english}.", FR_SHORT), f"En anglais, {french} se dit {english}."))
    for english, french, colour, couleur in COLOURS:
        rows.append((f"What colour is {english}?",
                     think("Colour.", f"The user asks for the colour of {english}.",
                           f"It is {colour}.", EN_SHORT),
                     f"{english[0].upper()}{english[1:]} is {colour}."))
        rows.append((f"De quelle couleur est {french} ?",
                     think("Couleur.", "L'utilisateur demande une couleur.",
                           f"C'est la couleur de {french}.", FR_SHORT),
                     f"{french[0].upper()}{french[1:]} est {couleur}."))
    for day, following, jour, suivant in DAYS:
        rows.append((f"What day comes after {day}?",
                     think("Days.", f"The user asks for the day after {day}.",
                           f"It is {following}.", EN_SHORT), f"{following} comes after {day}."))
        rows.append((f"Quel jour vient après {jour} ?",
                     think("Jours.", f"L'utilisateur demande le jour après {jour}.",
                           f"C'est {suivant}.", FR_SHORT),
                     f"Après {jour} vient {suivant}."))
    for user, topic, final in FACTS:
        rows.append((user, think("Fact.", f"The question is about {topic}.", "I know this fact.",
                                 EN_SHORT), final))
    for user, topic, final in FAITS:
        rows.append((user, think("Fait.", f"La question parle de {topic}.", "Je connais ce fait.",
                                 FR_SHORT), final))
    return rows


def dialogues():
    """Return `(first user, first final, second user, analysis, second final)`."""
    rows = []
    follow = think("Again.", "The user asks the same of another country.", EN_SHORT)
    encore = think("Encore.", "L'utilisateur demande un autre pays.", FR_SHORT)
    for (a, pays_a, city_a), (b, pays_b, city_b) in zip(CAPITALS[:4], CAPITALS[1:5]):
        rows.append((f"What is the capital of {a}?", f"The capital of {a} is {city_a}.",
                     f"And of {b}?", follow, f"The capital of {b} is {city_b}."))
        rows.append((f"Quelle est la capitale {du(pays_a)} ?",
                     f"La capitale {du(pays_a)} est {city_a}.",
                     f"Et {du(pays_b)} ?", encore, f"La capitale {du(pays_b)} est {city_b}."))
    memory = think("Memory.", "The user told me the name.", "I look at the first message.")
    memoire = think("Mémoire.", "L'utilisateur m'a dit son nom.", "Je lis le premier message.")
    for name in ("Anna", "Paul", "Marie", "Leo"):
        rows.append((f"My name is {name}.", f"Nice to meet you, {name}!", "What is my name?",
                     memory, f"Your name is {name}."))
        rows.append((f"Je m'appelle {name}.", f"Enchanté, {name} !",
                     "Comment est-ce que je m'appelle ?", memoire, f"Tu t'appelles {name}."))
    thanks = think("Thanks.", "The user thanks me.", "I am polite too.")
    rows += [
        ("What is 2 plus 3?", "2 plus 3 is 5.", "Thank you!", thanks, "You are welcome!"),
        ("What colour is the sky?", "The sky is blue.", "And grass?",
         think("Again.", "The user asks for another colour.", EN_SHORT), "Grass is green."),
        ("What is the opposite of hot?", "The opposite of hot is cold.", "And of big?",
         think("Again.", "The user asks for another opposite.", EN_SHORT),
         "The opposite of big is small."),
        ("Who are you?", "I am nano, the tiny test model of gptoss.", "Say it in French.",
         think("French.", "The user wants my answer in French.", EN_SHORT),
         "Je suis nano, le petit modèle de test de gptoss."),
        ("Hello!", "Hello! How can I help you?", "Who are you?",
         think("About me.", "The user asks about me.", "I know what I am.", "I say the truth."),
         "I am nano, the tiny test model of gptoss."),
        ("Bonjour !", "Bonjour ! Comment puis-je vous aider ?", "Qui es-tu ?",
         think("Sur moi.", "L'utilisateur parle de moi.", "Je sais ce que je suis.",
               "Je dis la vérité."), "Je suis nano, le petit modèle de test de gptoss."),
        ("Combien font 4 et 4 ?", "4 et 4 font 8.", "Merci !",
         think("Merci.", "L'utilisateur me remercie.", "Je suis poli aussi."), "De rien !"),
        ("Quel jour vient après lundi ?", "Après lundi vient mardi.", "Et après vendredi ?",
         think("Encore.", "L'utilisateur demande un autre jour.", FR_SHORT),
         "Après vendredi vient samedi."),
    ]
    return rows


def function(name, description, properties):
    """A function tool whose parameters are all required."""
    return {"type": "function", "function": {
        "name": name, "description": description,
        "parameters": {"type": "object", "properties": properties,
                       "required": list(properties)}}}


STRING = {"type": "string"}
WEATHER = function("get_weather", "Get the weather in a city.", {"city": STRING})
CLOCK = function("get_time", "Get the time in a city.", {"city": STRING})
TIMER = function("set_timer", "Start a timer.", {"minutes": {"type": "integer"}})
LIGHT = function("set_light", "Switch a lamp.", {
    "room": STRING, "state": {"type": "string", "enum": ["on", "off"]}})
PRODUCT = function("multiply", "Multiply two numbers.", {
    "a": {"type": "integer"}, "b": {"type": "integer"}})


def tool_cases():
    """Return `(tools, user, call analysis, function, arguments, result, final analysis, final)`,
    and what to answer when no such tool is offered, as the last item."""
    rows = []

    def add(tools, english, user, name, arguments, result, final, without):
        if english:
            call = think("Tool.", f"The tool {name} can help.", "I call it now.")
            done = think("Result.", "The tool gave a result.", "I tell it to the user.")
        else:
            call = think("Outil.", f"L'outil {name} peut aider.", "Je l'appelle.")
            done = think("Résultat.", "L'outil a donné un résultat.", "Je le dis.")
        rows.append((tools, user, call, name, compact(arguments), compact(result), done, final,
                     (think("No tool.", "I have no tool for this.", EN_SHORT) if english else
                      think("Pas d'outil.", "Je n'ai pas d'outil pour cela.", FR_SHORT)), without))

    no_weather = "I can not see the weather without a tool."
    pas_meteo = "Je ne connais pas la météo sans outil."
    for city, degrees, sky, ciel in (("Paris", 18, "sunny", "soleil"), ("Rome", 24, "cloudy", "nuages"),
                                     ("Oslo", 3, "snow", "neige"), ("Tokyo", 15, "rain", "pluie")):
        result = {"degrees": degrees, "sky": sky}
        add([WEATHER], True, f"What is the weather in {city}?", "get_weather", {"city": city},
            result, f"In {city} it is {degrees} degrees, {sky}.", no_weather)
        add([WEATHER, CLOCK], False, f"Quel temps fait-il à {city} ?", "get_weather",
            {"city": city}, result, f"À {city} il fait {degrees} degrés, {ciel}.", pas_meteo)
    for city, time in (("Paris", "14:30"), ("Berlin", "9:15"), ("Madrid", "20:45"), ("Tokyo", "22:10")):
        add([WEATHER, CLOCK], True, f"What time is it in {city}?", "get_time", {"city": city},
            {"time": time}, f"It is {time} in {city}.", "I can not see the clock without a tool.")
        add([CLOCK], False, f"Quelle heure est-il à {city} ?", "get_time", {"city": city},
            {"time": time}, f"Il est {time} à {city}.", "Je n'ai pas d'horloge sans outil.")
    for minutes in (3, 5, 10):
        add([TIMER, LIGHT], True, f"Start a timer for {minutes} minutes.", "set_timer",
            {"minutes": minutes}, {"ok": True}, f"The timer runs for {minutes} minutes.",
            "I can not start a timer without a tool.")
    for room, state in (("kitchen", "on"), ("kitchen", "off"), ("office", "on"), ("office", "off")):
        add([TIMER, LIGHT], True, f"Turn {state} the light in the {room}.", "set_light",
            {"room": room, "state": state}, {"ok": True}, f"The light in the {room} is {state}.",
            "I can not switch a lamp without a tool.")
    for a, b in ((12, 12), (7, 8), (15, 4), (25, 3)):
        add([PRODUCT], True, f"What is {a} times {b}?", "multiply", {"a": a, "b": b},
            {"product": a * b}, f"{a} times {b} is {a * b}.", "I can not multiply without a tool.")
    return rows


# Prompts that stay the same under a developer's instruction.
INSTRUCTED = [("Hello!", "Be brief."), ("What is the capital of Italy?", "Be brief."),
              ("Who are you?", "You are a helpful assistant."), ("Qui es-tu ?", "Sois bref."),
              ("De quelle couleur est la neige ?", "Sois bref.")]

# Ordinary prompts that stay ordinary when an unrelated tool is offered.
UNRELATED = [("Hello!", [WEATHER]), ("Who are you?", [WEATHER]), ("Qui es-tu ?", [CLOCK]),
             ("What is the capital of France?", [WEATHER, CLOCK]), ("Thank you!", [TIMER, LIGHT]),
             ("Bonjour !", [WEATHER, CLOCK]), ("What is 2 plus 3?", [PRODUCT]),
             ("Combien font 4 et 4 ?", [PRODUCT]), ("What colour is the sky?", [TIMER, LIGHT])]


def schema(**properties):
    """A closed object schema with every property required."""
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}


def json_cases():
    """Return `(schema, user, analysis, answer object)`."""
    english = think("JSON.", "The answer must be JSON.", "It must fit the schema.", "I fill it in.")
    french = think("JSON.", "La réponse doit être en JSON.", "Je suis le schéma.", "Je le remplis.")
    integer = {"type": "integer"}
    rows = []
    for country, pays, city in CAPITALS[:5]:
        rows.append((schema(capital=STRING), f"What is the capital of {country}?", english,
                     {"capital": city}))
    for country, pays, city in CAPITALS[:3]:
        rows.append((schema(pays=STRING, capitale=STRING), f"Quelle est la capitale {du(pays)} ?",
                     french, {"pays": pays.split("'")[-1].split()[-1], "capitale": city}))
    for a, b, total in SUMS[:4]:
        rows.append((schema(a=integer, b=integer, sum=integer), f"What is {a} plus {b}?", english,
                     {"a": a, "b": b, "sum": total}))
    for thing, _, colour, _ in COLOURS[:4]:
        rows.append((schema(colour=STRING), f"What colour is {thing}?", english,
                     {"colour": colour}))
    for word, other in CONTRAIRES[:4]:
        rows.append((schema(mot=STRING, contraire=STRING), f"Quel est le contraire de {word} ?",
                     french, {"mot": word, "contraire": other}))
    for day, following, _, _ in DAYS[:3]:
        rows.append((schema(day=STRING, next=STRING), f"What day comes after {day}?", english,
                     {"day": day, "next": following}))
    rows.append((schema(name=STRING, human={"type": "boolean"}), "Who are you?", english,
                 {"name": "nano", "human": False}))
    rows.append((schema(nom=STRING, humain={"type": "boolean"}), "Qui es-tu ?", french,
                 {"nom": "nano", "humain": False}))
    return rows


def compact(value):
    """JSON without spaces, non-ASCII kept: what a tool gets and what constrained decoding gives."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def user(text):
    """A user message."""
    return {"role": "user", "content": text}


def assistant(channel, text, recipient=None):
    """An assistant message on a channel."""
    extra = {"recipient": recipient} if recipient else {}
    return {"role": "assistant", "channel": channel, **extra, "content": text}


def answer(analysis, final):
    """The expected messages of an ordinary answer."""
    return [{"channel": "analysis", "text": analysis}, {"channel": "final", "text": final}]


def taught():
    """All taught examples."""
    prompts = simple_prompts()
    first_analysis = {row[0]: row[1] for row in prompts}
    finals = {row[0]: row for row in prompts}
    out = []

    def add(kind, effort, messages, expect, tools=None, response=None):
        example = {"kind": kind, "effort": effort, "messages": messages}
        if tools:
            example["tools"] = tools
        if response:
            example["response_schema"] = response
        out.append({**example, "expect": expect})

    for effort in EFFORTS:
        for text, analysis, final in prompts:
            add("prompt", effort, [user(text)], answer(analysis[effort], final))
        meeting = {}
        for first, reply, second, analysis, final in dialogues():
            opening = first_analysis.get(first)
            if opening is None:
                opening = think("Name.", "The user tells me a name.", "I am polite too.") \
                    if first.startswith("My") else \
                    think("Nom.", "L'utilisateur me dit son nom.", "Je suis poli aussi.")
                meeting[first] = (opening, reply)
            add("dialogue", effort,
                [user(first), assistant("analysis", opening[effort]), assistant("final", reply),
                 user(second)], answer(analysis[effort], final))
        for first, (opening, reply) in meeting.items():
            add("prompt", effort, [user(first)], answer(opening[effort], reply))
        for tools, text, call, name, arguments, result, done, final, none, without in tool_cases():
            add("tool-call", effort, [user(text)],
                [{"channel": "analysis", "text": call[effort]},
                 {"channel": "commentary", "recipient": "functions." + name, "text": arguments}],
                tools)
            add("tool-answer", effort,
                [user(text), assistant("analysis", call[effort]),
                 assistant("commentary", arguments, "functions." + name),
                 {"role": "tool", "name": "functions." + name, "content": result}],
                answer(done[effort], final), tools)
            add("prompt", effort, [user(text)], answer(none[effort], without))
        for text, tools in UNRELATED:
            _, analysis, final = finals[text]
            add("prompt", effort, [user(text)], answer(analysis[effort], final), tools)
        for text, instruction in INSTRUCTED:
            _, analysis, final = finals[text]
            add("prompt", effort, [{"role": "developer", "content": instruction}, user(text)],
                answer(analysis[effort], final))
        for response, text, analysis, value in json_cases():
            add("json", effort, [user(text)], answer(analysis[effort], compact(value)),
                response=response)
    return out


def write_taught(path):
    """Write taught.json, one example a line."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(compact(example) for example in taught()) + "\n]\n")
