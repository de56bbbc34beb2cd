"""A story grammar: characters, places, things and twelve plots, from which the training stories are drawn.

A plot is a list of steps and each step a list of sentences to choose from. Slots: <N> hero, <F> friend, <K> and <FK>
their kinds, <A> the hero's nature, <O> the thing, <P> the place, <W> the weather; <he> <him> <his> and <fhe> <fhim>
<fhis> agree with the hero and the friend.
"""

from __future__ import annotations

import random
import re

KINDS = ["fox", "rabbit", "bear", "owl", "mouse", "hedgehog", "otter", "duck", "squirrel", "badger", "cat", "dog", "frog",
         "goat", "robin", "boy", "girl", "turtle", "pony", "crow"]
NAMES = {"he": ["Tom", "Ben", "Max", "Oscar", "Finn", "Leo", "Sam", "Toby", "Milo", "Jack", "Rufus", "Bruno"],
         "she": ["Anna", "Mia", "Lily", "Ruby", "Ella", "Daisy", "Molly", "Ivy", "Clara", "Bella", "Hazel", "Poppy"]}
NATURES = ["little", "small", "brave", "shy", "kind", "clever", "quiet", "curious", "cheerful", "gentle", "young", "friendly"]
# thing, and a place it may be found in
THINGS = ["lantern", "key", "drum", "kite", "red hat", "bell", "book", "map", "basket", "silver cup", "warm blanket", "music box",
          "blue ball", "wooden boat", "green scarf", "golden button", "bucket", "umbrella", "rope", "whistle"]
PLACES = ["by the river", "in the old forest", "on a green hill", "near the canal", "beside a quiet lake", "in a small village",
          "at the edge of the wood", "in a sunny valley", "under an old oak tree", "next to the windmill", "by the sea", "in a big garden"]
WEATHER = ["sunny", "windy", "rainy", "cold", "warm", "foggy", "snowy", "bright"]
PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}

OPENING = [
    "Once upon a time, there was <a A> <K> called <N>. <N> lived <P>.",
    "Once upon a time, <a A> <K> called <N> lived <P>.",
    "<P2> lived <a A> <K> called <N>.",
    "There was once <a A> <K> whose name was <N>. <His> home was <P>.",
    "Long ago, <P>, there lived <a A> <K> called <N>.",
]
FRIEND = ["<His> best friend was <a FK> called <F>.", "<He> had a good friend, <a FK> called <F>.",
          "Next door lived <a FK> called <F>, and the two were friends.", "Every day <he> played with <F> the <FK>."]
DAY = ["One <W> morning", "One <W> day", "On a <W> afternoon", "Early one <W> morning"]
# Plots whose sentences need a certain hour or weather.
PLOT_DAY = {"lost": DAY[3], "birthday": DAY[0], "dark": "One <W> evening"}
PLOT_WEATHER = {"storm": ["sunny", "windy", "warm", "bright"], "flood": ["rainy", "cold", "foggy", "windy"], "share": ["cold", "snowy", "windy"],
                "seed": ["sunny", "windy", "warm", "rainy"], "birthday": ["sunny", "snowy", "warm", "bright"]}
ENDING = [
    "From that day on, <N> and <F> were the best of friends.", "That night <N> fell asleep with a smile.",
    "And <N> never forgot that day.", "<N> was very happy, and so was <F>.", "They laughed all the way home.",
    "After that, the two friends did everything together.", "And they lived happily ever after.",
    "It was the best day of the whole year.",
]
MORAL = ["A friend who helps is worth more than gold.", "It is good to share.", "Being brave means trying even when you are afraid.",
         "Small friends can be a great help.", "It is always good to be kind.", "Two can do what one cannot.",
         "Those who keep trying will learn in the end."]

PLOTS: dict[str, list[list[str]]] = {
    "lost": [
        ["<N> had <a O> and loved it more than anything.", "<N>'s greatest treasure was <a O>.", "<He> had <a O> that <he> took everywhere."],
        ["<D>, the <O> was gone.", "<D>, <N> woke up and could not find the <O>.", "<D>, <N> saw that the <O> was missing."],
        ["<He> looked under the bed, behind the door and in the garden.", "<He> searched the whole house, but it was not there.",
         "<He> looked high and low, but found nothing."],
        ["<N> sat down and began to cry.", "<N> felt very sad.", "\"Oh no,\" said <N>. \"What shall I do?\""],
        ["<F> heard <him> and said, \"Do not worry. We will look for it together.\"", "\"I will help you,\" said <F>.", "Then <F> came by and asked what was wrong."],
        ["They followed the path to the old bridge.", "They asked everyone they met on the road.", "Together they walked to every place where <N> had been."],
        ["At last they found the <O> in the tall grass.", "There, under a bush, lay the <O>.", "Suddenly <F> saw something shine. It was the <O>!"],
        ["\"Thank you, <F>,\" said <N>, and gave <fhim> a big hug.", "<N> jumped for joy and thanked <F>."],
    ],
    "storm": [
        ["<D>, <N> went for a walk with <his> <O>.", "<D>, <N> left home and took only <a O> along."],
        ["Soon dark clouds came over the hill.", "Then the sky turned grey and the wind began to blow.", "All at once there was a great storm."],
        ["The rain fell so hard that <N> could not see the path.", "Thunder rolled, and <N> was afraid."],
        ["<He> hid under a tree, but the water came closer and closer.", "<He> ran as fast as <he> could, but there was no house to be seen."],
        ["Then <he> saw a light in the distance. It was the house of <F> the <FK>.", "Just then <he> heard a voice. It was <F>, who called, \"Come in, come in!\""],
        ["<F> opened the door and made hot soup.", "<F> gave <him> a dry coat and a cup of tea.", "They sat by the fire until <N> was warm again."],
        ["When the storm was over, there was a rainbow in the sky.", "In the evening the rain stopped and the stars came out."],
        ["<N> gave <F> the <O> to say thank you.", "\"This <O> is for you,\" said <N>, \"because you helped me.\""],
    ],
    "return": [
        ["<D>, <N> found <a O> on the road.", "<D>, <N> saw <a O> lying in the grass.", "<D>, there was <a O> in front of <N>'s door."],
        ["\"How beautiful it is!\" said <N>.", "<He> had never seen such a fine <O>.", "<N> wanted to keep it."],
        ["But then <he> thought, \"Somebody must be looking for this.\"", "But <he> knew that it belonged to someone else.", "\"Whose can it be?\" <he> wondered."],
        ["So <he> went from house to house and asked.", "So <he> walked through the whole village with the <O> in <his> arms."],
        ["The baker said no, and the miller said no.", "Nobody knew whose it was.", "\"It is not mine,\" said everyone."],
        ["At the last house <he> met <F>, <a FK>, who looked very sad.", "Then <he> met <F> the <FK>, who was searching everywhere."],
        ["\"My <O>!\" cried <F>. \"You have found it!\"", "When <F> saw the <O>, <fhe> danced with joy."],
        ["<F> was so glad that <fhe> invited <N> to tea.", "To say thank you, <F> baked a large cake for <N>."],
    ],
    "learn": [
        ["<N> wanted to learn <S>.", "More than anything, <N> wished to learn <S>.", "All the others knew how <S>, but <N> did not."],
        ["<D>, <he> tried for the first time, but it did not go well.", "<D>, <he> tried and tried, but nothing worked.", "<D>, <he> began, and at once <he> fell down."],
        ["\"I will never learn it,\" said <N>.", "<N> wanted to give up.", "Some of the others laughed, and <N> felt small."],
        ["But <F> the <FK> said, \"Try once more. I will show you.\"", "Then <F>, <a FK>, sat down beside <him> and said, \"It was hard for me too.\""],
        ["<F> gave <him> <a O> to bring <him> luck.", "\"Take my <O>,\" said <F>. \"It always helps me.\""],
        ["Every day they practised together.", "They practised in the morning and in the evening.", "Day after day, <N> became a little better."],
        ["And one day it worked!", "At last <N> could do it all alone.", "After a week, <N> did it without a mistake."],
        ["Everyone clapped, and <F> clapped the loudest.", "\"I knew that you could do it!\" said <F>."],
    ],
    "dark": [
        ["<N> was afraid of the dark.", "When night came, <N> always felt afraid.", "There was only one thing that <N> feared, and that was the night."],
        ["<D>, a letter came. <F> the <FK> was ill and needed help.", "<D>, <N> heard that <F> the <FK> was all alone and ill."],
        ["The way to <F>'s house led through the dark wood.", "It was already late, and the wood on the way was dark."],
        ["<N> took <a O> and went out of the door.", "\"I must go,\" said <N>, and picked up <his> <O>."],
        ["The trees made strange noises, and <his> heart beat fast.", "Something moved in the bushes, but it was only the wind."],
        ["<He> sang a song to feel brave.", "<He> held the <O> tight and walked on.", "Step by step <he> went on, and the moon showed <him> the way."],
        ["When <he> came to the house, <F> was so glad to see <him>.", "At last <he> knocked at <F>'s door, and <F> smiled."],
        ["\"You came through the dark for me,\" said <F>. \"How brave you are!\"", "Since then, <N> has not been afraid of the night."],
    ],
    "share": [
        ["It was a hard winter, and there was little to eat.", "Snow lay on the fields, and everyone was hungry."],
        ["<D>, <N> found three apples and gave away <a O> for a loaf of bread.", "<D>, <N> had only one loaf of bread left. <He> kept it beside <his> <O>."],
        ["Then there was a knock at the door. It was <F>, <a hungry FK>.", "On the way home <he> met <F> the <FK>, who shook with cold."],
        ["\"I have not eaten for two days,\" said <F>.", "\"Please, can you give me something to eat?\" asked <F>."],
        ["<N> thought for a moment. There was hardly enough for one.", "<N> was hungry too, but <he> did not say so."],
        ["Then <he> gave half of the food to <F>.", "\"Come in and eat with me,\" said <N>."],
        ["They ate together and told each other stories.", "The food was simple, but it tasted wonderful."],
        ["In spring <F> came back with a bag full of nuts and berries.", "When summer came, <F> brought <him> sweet cherries every week."],
    ],
    "boat": [
        ["<N> dreamed of seeing the other side of the water.", "<N> often wondered what was on the island."],
        ["<D>, <he> said to <F> the <FK>, \"Let us build a boat.\"", "<D>, <he> asked <F>, <a FK>, to help <him> build a boat."],
        ["They took old wood, some nails and a sheet for a sail.", "They worked for five days and made a small boat."],
        ["<F> brought <a O>, because it might be useful.", "\"We must not forget the <O>,\" said <F>."],
        ["Then they pushed the boat into the water and sailed away.", "The wind filled the sail, and off they went."],
        ["Halfway across, the boat began to leak.", "In the middle of the water, a big wave came."],
        ["\"Quick, the <O>!\" cried <N>, and they used it to save the boat.", "But with the help of the <O> they came safely to land."],
        ["On the other side they found sweet berries and a white beach.", "On the island they met many new friends."],
    ],
    "bridge": [
        ["<D>, the old bridge broke.", "<D>, the water rose and took the bridge away."],
        ["Now nobody could cross the river.", "<N> stood on one side, and <F> the <FK> stood on the other."],
        ["\"What shall we do?\" asked <F>, <a FK> who lived on the other side.", "\"How can I visit you now?\" called <F>."],
        ["<N> had an idea. <He> ran home and fetched <a O>.", "<N> thought for a long time. Then <he> fetched <his> <O>."],
        ["<N> worked on one side, and <F> worked on the other.", "All the neighbours came and carried stones and wood."],
        ["The work was hard, but nobody stopped.", "They worked until the sun went down."],
        ["After three days there was a new bridge, stronger than the old one.", "In the end, the new bridge was ready."],
        ["They hung the <O> in the middle of the bridge so that everyone could see it.", "<N> and <F> met in the middle and shook hands."],
    ],
    "race": [
        ["<D>, there was a race in the village, and the prize was <a O>.", "<D>, everyone came to the great race. The winner would get <a O>."],
        ["<N> wanted to win, and so did <F> the <FK>.", "<F>, <a fast FK>, was sure to win."],
        ["\"Ready, steady, go!\" called the owl, and they ran.", "The bell rang, and the race began."],
        ["At first <F> was far ahead.", "<F> ran so fast that nobody could follow."],
        ["But then <F> fell over a stone and hurt <fhis> foot.", "But at the corner <F> slipped and fell."],
        ["<N> could have won. But <he> stopped and helped <F> up.", "<N> did not run past. <He> took <F> by the hand."],
        ["They crossed the line together, slowly, side by side.", "Together they walked to the end, last of all."],
        ["And everyone agreed that the <O> should go to both of them.", "Everybody cheered, and the two friends shared the <O>."],
    ],
    "birthday": [
        ["<D>, it was <N>'s birthday.", "<D>, <N> woke up and remembered that it was <his> birthday."],
        ["<He> ran outside, but nobody was there.", "But nobody said a word about it."],
        ["Even <F> the <FK> did not open the door.", "<He> went to see <F>, <a FK>, but the house was empty."],
        ["\"They have all forgotten me,\" thought <N>.", "<N> walked home slowly with a heavy heart."],
        ["When <he> opened <his> door, it was dark inside.", "Then <he> heard a noise behind the house."],
        ["\"Surprise!\" shouted all <his> friends.", "Suddenly all the lights went on, and everybody began to sing."],
        ["There was a cake, and there was music, and <F> gave <him> <a O>.", "<F> smiled and gave <him> <a O> with a ribbon on it."],
        ["\"How could we forget you?\" said <F>.", "\"Thank you,\" said <N>. \"You are wonderful friends.\""],
    ],
    "seed": [
        ["<D>, <N> found a tiny seed under <a O>.", "<D>, a stranger gave <N> <a O> and a tiny seed."],
        ["<He> planted it in the earth and gave it water every day.", "<He> put it into the ground behind the house."],
        ["\"Nothing will grow there,\" said <F> the <FK>.", "<F>, <a FK>, came to look and shook <fhis> head."],
        ["A week went by, and nothing happened.", "Many days passed, but there was nothing to see."],
        ["But <N> did not give up.", "But <N> waited and sang to the seed each morning."],
        ["Then, after the first warm rain, a green leaf came out.", "Then one morning there was a small green plant."],
        ["It grew and grew until it was a tall tree with red apples.", "Soon it was taller than the house, and it was full of flowers."],
        ["\"I was wrong,\" said <F>, and they ate the first apple together.", "<N> and <F> sat in its shade all summer long."],
    ],
    "flood": [
        ["<D>, it had rained for seven days, and the canal was full.", "<D>, the water in the canal rose higher and higher."],
        ["\"If nobody opens the sluice, the village will be flooded,\" said <F> the <FK>.", "<F>, <a FK>, came running. \"The water is coming!\" <fhe> cried."],
        ["But the sluice gate was stuck, and the keeper was away.", "But the wheel of the sluice gate would not turn."],
        ["<N> had only <a O>, but <he> had an idea.", "\"Wait,\" said <N>. \"I have <a O>. It may help us.\""],
        ["They pulled and pushed with all their might.", "<N> pulled, and <F> pushed, and the wheel made a loud noise."],
        ["Slowly the gate opened, and the water ran out into the river.", "At last the gate moved, and the water rushed away."],
        ["The houses stayed dry, and everybody was safe.", "By evening the streets were dry again."],
        ["The whole village thanked <N> and <F>.", "The mayor gave them a medal and a large cake."],
    ],
}
SKILLS = ["to swim", "to sing", "to skate", "to bake bread", "to climb trees", "to fly a kite", "to dance", "to ride", "to read", "to whistle"]

REQUEST_TRAIN = {
    "plain": ["Tell me a {short |little |nice |}story{ please|}.", "Write {me |}a {short |}story.", "Can you tell me a {short |}story?", "A story, please.",
              "I would like {to hear |}a story.", "Please write a {short |}story.", "Tell me a bedtime story.", "Do you know a {good |}story?", "Make up a story."],
    "kind": ["Tell me a {short |}story about <a K>.", "Write {me |}a {short |}story about <a K>.", "Can you tell {me |}a story about <a A> <K>?",
             "A story about <a K>, please.", "I would like a story about <a A> <K>.", "Please write a {short |}story about <a K>."],
    "name": ["Tell me a {short |}story about <a K> called <N>.", "Write a {short |}story about <a K> named <N>.", "Please tell me about <N> the <K>.",
             "Can you write a story about <N>, <a A> <K>?"],
    "two": ["Tell me a {short |}story about <a K> and <a FK>.", "Write a {short |}story about <a K> and <a FK>.", "Can you tell a story with <a K> and <a FK> in it?"],
    "thing": ["Tell me a {short |}story about <a K> and <a O>.", "Write a {short |}story about <a K> and <a O>.", "Tell a story with <a O> in it.",
              "Please write a story about <a K> with <a O>.", "Can you write a story about <a O>?"],
    "place": ["Tell me a {short |}story about <a K> <P>.", "Write a {short |}story that happens <P>.", "Tell a story about <a K> who lives <P>."],
}


def _fill(text: str, slots: dict[str, str]) -> str:
    def article(m: re.Match[str]) -> str:
        words = [slots.get(w, w) for w in m[1].split()]
        return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)
    text = re.sub(r"<a ([^>]+)>", article, text)
    for k, v in slots.items():
        text = text.replace(f"<{k}>", v)
    return text


def make_story(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A story, and the slots it was told with (so that a request for it can be written)."""
    he, fhe = rng.choice(["he", "she"]), rng.choice(["he", "she"])
    name, kind = rng.choice(NAMES[he]), rng.choice(KINDS)
    kind = {"boy": "girl"}.get(kind, kind) if he == "she" else {"girl": "boy"}.get(kind, kind)
    friend = rng.choice([n for n in NAMES[fhe] if n != name])
    fkind = rng.choice([k for k in KINDS if k not in (kind, "boy", "girl")])
    s = {"N": name, "K": kind, "F": friend, "FK": fkind, "A": rng.choice(NATURES), "O": rng.choice(THINGS), "P": rng.choice(PLACES),
         "S": rng.choice(SKILLS)}
    s["P2"] = s["P"][0].upper() + s["P"][1:]
    for prefix, who in (("", he), ("f", fhe)):
        for key, value in zip(("he", "him", "his"), PRONOUNS[who]):
            s[prefix + key] = value
            s[(prefix + key).capitalize()] = value.capitalize()
    plot = rng.choice(list(PLOTS))
    s["W"] = rng.choice(PLOT_WEATHER.get(plot, WEATHER))
    s["D"] = _fill(PLOT_DAY.get(plot) or rng.choice(DAY), s)
    sentences = [rng.choice(OPENING)]
    introduced = rng.random() < 0.5
    if introduced:
        sentences.append(rng.choice(FRIEND))
    body = [rng.choice(step) for step in PLOTS[plot]]
    if introduced:   # the friend is known by now: no second introduction
        body = [re.sub(r"<F>(?: the <FK>|, <a [^>]*FK>(?: who lived on the other side)?(,|(?=[ .])))", "<F>", b) for b in body]
    elif not any("FK>" in b for b in body):
        sentences.append(rng.choice(FRIEND))
    sentences += body
    sentences.append(rng.choice(ENDING))
    if rng.random() < 0.4:
        sentences.append(rng.choice(MORAL))
    return _fill(" ".join(sentences), s), s
