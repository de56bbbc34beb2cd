"""More ways to ask the questions of world.py, all of them trained on. Same notation, same slots."""

from __future__ import annotations

_TELL = "{Tell me|Please tell me|Let me know|Explain}"
_ASK = "{Can you tell me|Could you tell me|Do you know|Would you know|I want to know|I would like to hear|I need to know}"
_COL = "{colour|color}"
_FAV = "{favourite|favorite}"

EXTRA: dict[str, list[str]] = {
    "job": [_TELL + " what <P>'s {job|work|trade} is.", _ASK + " {which|what} {job|work|trade} <P> has?", "<P>'s work is what?", "What would you say <P> does?",
            "What {job|trade|work} is <P>'s?", "What does <P> do here?", "The job of <P> is what?", "In what trade does <P> work?", "Where people work, what does <P> do?"],
    "who_job": [_ASK + " which person is the <J>?", _TELL + " which person works as the <J>.", "Whose job is it to be the <J>?", "I need the <J>. Who is that?",
                "Where is the <J>, and who is it?", "Who here is the <J>?", "Which name has the <J>?", "The person who works as the <J> is called what?"],
    "pet": ["Which animal is at home with <P>?", _ASK + " which animal is <P>'s?", "What animal is with <P>?", "What pet is <P>'s?", "The pet of <P> is what?",
            "What sort of animal lives in <P>'s house?", "Which pet is living with <P>?", _TELL + " which animal lives with <P>.", "With which animal does <P> live?"],
    "who_pet": ["Who is the person with the <A>?", _ASK + " whose the <A> is?", _TELL + " whose pet the <A> is.", "At whose house does the <A> live?",
                "The <A> lives with whom?", "The owner of the <A> is who?", "I see a <A>. Whose is it?", "Which person has a pet <A>?"],
    "pet_name": ["The {pet|<A>} of <P> is called what?", "<P>'s {pet|<A>} is called what?", "What is the {pet|<A>} that <P> has called?", _TELL + " how <P>'s {pet|<A>} is called.",
                 "What do people call <P>'s {pet|<A>}?", "Say the name of the {pet|<A>} that lives with <P>.", "The name of <P>'s {pet|<A>}?"],
    "colour": ["<P> is fond of which " + _COL + "?", "What " + _COL + " would <P> like?", "<P> likes one " + _COL + " best. Which is it?", "Of what " + _COL + " is <P> fond?",
               "In what " + _COL + " should I paint a house for <P>?", _TELL + " what " + _COL + " <P> likes.", "The " + _COL + " that <P> likes most is what?", "<P> loves which " + _COL + "?"],
    "food": ["What is a good meal for <P>?", "<P> likes to eat what?", "<P> comes to dinner. What should I cook?", "What is <P> fond of eating?", "The food that <P> likes is what?",
             _TELL + " what <P> {eats|likes to eat|wants for dinner}.", "What would <P> like {to eat|for lunch|for dinner}?", "What food would <P> want?", _ASK + " which dish <P> likes best?"],
    "home": ["Where is <P> at home?", "Where is <P> living now?", "In which house is <P> at home?", "I want to visit <P>. Where should I go?", "What place is <P>'s home?", "Where would I find <P>?",
             "Which place is the home of <P>?", _ASK + " in which house <P> lives?", _TELL + " which house is <P>'s.", "At what place does <P> live?", "<P> is living where?"],
    "who_home": ["Who is the person in the <H>?", "Which person is at home in the <H>?", _ASK + " whose home the <H> is?", _TELL + " which person lives in the <H>.",
                 "Who has the <H> as a home?", "The <H> is whose house?", "I am at the <H>. Who lives here?"],
    "instrument": ["<P> makes music with what?", "Which instrument can <P> play?", "With what does <P> make music?", "What instrument is <P>'s?", _ASK + " what <P> can play?",
                   "<P> plays which instrument?", "The instrument that <P> plays is what?", _TELL + " what <P> plays."],
    "who_instrument": ["Who is the person with the <I>?", "I hear a <I>. Who plays it?", "Which person has the <I>?", _ASK + " which person plays the <I>?", "The <I> is whose instrument?",
                       _TELL + " which person plays the <I>.", "Who here plays the <I>?"],
    "about": ["Say something about <P>.", "Who is that <P>?", "Who is <P> in Lockwell?", _ASK + " who <P> is?", _TELL + " who <P> is.", "I do not know <P>. Who is it?", "More about <P>, please."],
    "yes_job": ["Is <P> a <J>?", "Is the job of <P> <J>?", "Is <P> really the <J>?", "Is it right to say that <P> is the <J>?", "The <J> is <P>, {right|is that right|is that true}?", "So <P> is the <J>?",
                "Is <P> working as the <J>?", "I think <P> is the <J>. Is that right?", "Does the name of the <J> happen to be <P>?", "Is <P> the <J> here?", "Is the <J> <P>?",
                "Is <P> the <J> or not?", "Is <P> the <J> in {Lockwell|the village}?", "Tell me if <P> is the <J>."],
    "yes_pet": ["Is <P> the one with the <A>?", "Is it right to say that <P> has a <A>?", "Is the pet of <P> a <A>?", "So <P> has a <A>?", "Does <P> live with a <A>?", "I think <P> has a <A>. Is that right?",
                "Does <P> have a <A> or not?", "Tell me if <P> has a <A>.", "Is <P>'s animal a <A>?", "Is a <A> living with <P>?", "The <A> is <P>'s, {right|is that true}?"],
    "where": ["What is the way to the <L>?", "Where should I go for the <L>?", "I want to find the <L>.", "I want to visit the <L>. Where should I go?", "Where would I find the <L>?", "Where is the way to the <L>?",
              "In which place is the <L>?", _ASK + " how to get to the <L>?", _TELL + " how to find the <L>.", "At what place is the <L>?"],
    "use": ["Why do people visit the <L>?", "What is it good for, the <L>?", "When I am at the <L>, what can I do?", _TELL + " why people go to the <L>.", _ASK + " what people do at the <L>?", "What would I do at the <L>?"],
    "sound": ["A <A> makes what {sound|noise}?", "What is the {sound|noise} that a <A> makes?", "When a <A> makes a noise, what is it?", _ASK + " how a <A> sounds?", _TELL + " what a <A> says.", "A <A> says what?"],
    "legs": ["What number of legs are on a <A>?", "With how many legs does a <A> walk?", "Count how many legs a <A> has.", "The legs of a <A>: how many are there?", _ASK + " the number of legs of a <A>?"],
    "colour_of": ["<T>: what " + _COL + " is it?", "What is the " + _COL + " that <T> has?", "In what " + _COL + " is <T>?", _ASK + " the " + _COL + " of <T>?", "<T> has which " + _COL + "?", "The " + _COL + " of <T> is what?"],
    "opposite": ["The word <W> has what opposite?", "What is the word for not <W>?", _ASK + " which word is the opposite of <W>?", "If it is not <W>, what is it?", "<W> is the opposite of what?", "<W> and what are opposites?",
                 _TELL + " what the opposite of <W> is.", "Which word means not <W>?", "Name a word that means the opposite of <W>."],
    "day_after": ["<D> is today. What is tomorrow?", "If it is <D> today, what comes tomorrow?", "What day will come after <D>?", "The day after <D> is what?", _ASK + " the day after <D>?"],
    "day_before": ["<D> is today. What was yesterday?", "If it is <D> today, what was it yesterday?", "What day came before <D>?", "The day before <D> is what?", _ASK + " the day before <D>?"],
}
