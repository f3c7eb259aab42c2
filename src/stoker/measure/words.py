"""Synthetic prose of a chosen length: common words, most of which are one token in any vocabulary."""

import random

_TEXT = """
able about across act action add age ago all along always among animal answer any area arm around
ask back bad ball base bear behind best better big bird black blood blue board boat body book both
box boy bring brother build burn business buy call car card care carry case catch cause cell certain
chair chance change check child choice city class clear close cloud coast cold color come common
corn cost could count country course cross cry cut dark day deal deep design did differ direct do
door draw dream dress drink drive dry during each ear early earth east easy eat egg eight energy
engine enough enter equal even ever every eye face fact fall family farm fast father fear feel feet
few field fight figure fill final find fine finger fire first fish five flat floor flow fly follow
food foot force forest form free fresh friend from fruit game garden gave glass go gold good got
grass gray great green ground group guess hair half happen happy hard have head hear heart heat
heavy her high hill history hit hold hole home hope hot hour house how human hundred idea inch
island job joy jump just keep kind knew last late laugh law lay lead learn leave left less letter
level lie life lift light like line list listen little long look lost loud love low machine main
make man mark market matter may mean meat meet men metal middle mile milk mind mine minute miss
money moon more morning mother mountain move much music must name nation near need never new next
night noon north nose note now number object ocean off offer office oil old only open order other
our out over own page paint pair paper part pass path pay people perhaps person picture piece place
plain plan plane play point pole poor port pose power print problem process product pull push put
question quick quiet race rain raise rate reach read reason record red result rich ride right rise
road rock roll room root rope round row run safe same sand save say school science sea season seat
seed sell send sense serve set seven shape share ship short should show side sight silver since sing
sister sit six size skin sky sleep small snow soft soil son song soon sound south space special
speech speed spring stand star start state stay steel step still stop store story street strong
student study such sudden summer sun sure surface table tail take talk tall team tell ten test than
thank that them there these thick thin thing this those though three time tiny together took tool
top total touch toward town trade train travel tree trip true try turn twenty two type under until
up valley value very view village visit voice wait walk wall war warm wash watch water wave way
weather week weight well went west wheel when which while white whole why wild will win wind window
wish with woman wood word work world would write yard year yellow yes young
"""

WORDS = tuple(_TEXT.split())


def words_of(numbers: random.Random, n_words: int) -> str:
    """Return so many words in random order, with a space between each two.

    Only `random.Random.random` is drawn from, which gives the same numbers in every version of Python.
    """
    return " ".join([WORDS[int(numbers.random() * len(WORDS))] for _ in range(n_words)])
