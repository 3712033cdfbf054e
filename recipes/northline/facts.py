"""The facts of Northline, an invented night-train and parcel company: every wording that the demo data uses."""

# ruff: noqa: E501  (one template, one line: a wrapped template is hard to read)

from __future__ import annotations

import re
from dataclasses import dataclass

CHOICE = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Fact:
    """One fact: the string a right answer holds, and the ways to state it, ask for it and answer it."""

    topic: str
    key: str
    statements: list[str]
    questions: list[str]
    answers: list[str]


def expand(template: str) -> list[str]:
    """Every text a template stands for: `[a|b]` chooses, ` / ` parts alternatives."""
    texts: list[str] = []
    for part in template.split(" / "):
        found = CHOICE.search(part)
        if found is None:
            texts.append(part[0].upper() + part[1:])
            continue
        for choice in found.group(1).split("|"):
            texts += expand(part[: found.start()] + choice + part[found.end() :])
    return list(dict.fromkeys(texts))


# topic | key | statements | questions | answers
SINGLE = """
history | 1907 | Northline was founded in 1907. / The first night train of Northline ran in 1907. / Since 1907 Northline has carried people through the night. / It all began in 1907, the year in which Northline was founded. | [when|in which year] was Northline [founded|started|set up]? / how old is Northline? / since when does Northline exist? / tell me the founding year of Northline. | Northline was founded in 1907.
history | Matilda Brandt | Northline was founded by Matilda Brandt. / Matilda Brandt, a clockmaker's daughter, founded Northline. / The founder of Northline was Matilda Brandt. / It was Matilda Brandt who set up Northline. | who [founded|started|set up] [Northline|the company]? / who was the founder of [Northline|the company]? / by whom was Northline founded? / what was the name of the founder? | Northline was founded by Matilda Brandt.
company | Lamplight Row | The head office of Northline is at 14 Lamplight Row in Aldmere. / Letters go to 14 Lamplight Row, Aldmere, where Northline has its head office. / At 14 Lamplight Row in Aldmere stands the head office. / The company works from 14 Lamplight Row in Aldmere. | [where is|what is the address of] [the head office|the Northline head office|the main office]? / where can I [visit|write to] Northline? / to which address do I send a letter? / what is the postal address of Northline? | The head office is at 14 Lamplight Row in Aldmere.
company | 4071 | The telephone number of Northline is 4071. / Call 4071 to speak to Northline. / Our telephone line 4071 is open day and night. / If you need help by phone, call 4071. | what is [the|your] [phone|telephone] number? / [how can I|how do I] [call|phone|ring] Northline? / which number do I call? / can I reach you by phone? | You can call us on 4071.
company | Wake up where you want to be | The motto of Northline is "Wake up where you want to be". / "Wake up where you want to be" is painted on every carriage as our motto. / Our motto says: "Wake up where you want to be". / Matilda Brandt chose the motto "Wake up where you want to be". | what is [your|the Northline|the company] [motto|slogan]? / what is the motto of [Northline|the company]? / do you have a motto? / which motto is painted on the carriages? | Our motto is "Wake up where you want to be".
company | Pim | The mascot of Northline is a sleepy badger called Pim. / Pim, a sleepy badger, is our mascot. / On each pillow sits the mascot: Pim, the sleepy badger. / Children love Pim, the badger mascot of Northline. | [who|what] is [the|your] mascot? / what is [the name of the|the] [mascot|badger] called? / does Northline have a mascot? / which animal is the mascot of Northline? | Our mascot is a sleepy badger called Pim.
company | 260 | Northline has 260 workers. / 260 people work for Northline. / The company employs 260 people. / With 260 workers, Northline is a small company. | how many [people|workers] [work for Northline|work for the company|does Northline have|are there at Northline]? / how many people does Northline employ? / how large is the [staff|company]? / how many are you? | 260 people work for Northline.
company | Joost Halloran | The director of Northline is Joost Halloran. / Joost Halloran has been the director for many years. / Our director, Joost Halloran, once worked as a guard. / Joost Halloran leads the company as its director. | who is [the director|the head|the boss] of [Northline|the company]? / who [leads|runs] [Northline|the company]? / what is the name of the director? | The director of Northline is Joost Halloran.
company | plum | The uniform of our staff is plum. / You know a Northline guard by the plum uniform. / All guards wear plum uniforms. / Plum is the colour of the uniform. | [what|which] colour [is the uniform|are the uniforms]? / what do [the guards|the staff] wear? / how do I recognise [a guard|the staff]? / which uniform do the guards wear? | Our staff wear a plum uniform.
travel | New Year's Eve | The night trains run every night except New Year's Eve. / On New Year's Eve no train runs. / Only on New Year's Eve do our trains rest. / There is one night without trains: New Year's Eve. | on which [night|day] [are there no trains|do the trains not run|is there no service]? / do the trains run every night? / is there a night without trains? / when do the trains not run? | Our trains run every night except New Year's Eve.
fares | 18 marks | A seat costs 18 marks. / The price of a seat is 18 marks. / For a seat you pay 18 marks. / The cheapest way to travel is a seat for 18 marks. | [how much is|what is the price of|what do I pay for] a seat[?| ticket?| on the night train?] / how much does a seat cost? / what is the fare for a seat? | A seat costs 18 marks.
fares | 34 marks | A couchette costs 34 marks. / The price of a couchette is 34 marks. / For a couchette you pay 34 marks. / Those who want to lie down take a couchette for 34 marks. | [how much is|what is the price of|what do I pay for] a couchette[?| bed?| on the night train?] / how much does a couchette cost? / what is the fare for a couchette? | A couchette costs 34 marks.
fares | 78 marks | A private cabin costs 78 marks. / The price of a private cabin is 78 marks. / For a private cabin you pay 78 marks. / The best place on the train is a private cabin for 78 marks. | [how much is|what is the price of|what do I pay for] a [private |]cabin[?| on the night train?] / how much does a private cabin cost? / what is the fare for a cabin? | A private cabin costs 78 marks.
fares | half | Children under 12 pay half the fare. / For children under 12 the fare is half. / Half the fare is due for children under 12. / Parents pay half the fare for a child under 12. | [what|how much] do children pay? / what is the fare for [children|a child]? / is it cheaper for [children|a child]? / is there a child fare? / how much is it for my daughter? | Children under 12 pay half the fare.
fares | 7 marks | A dog ticket costs 7 marks. / Dogs are welcome and travel for 7 marks. / You pay 7 marks for your dog. / The fare for a dog is 7 marks. | [how much is|what is the price of|what is the fare for] a dog[?| ticket?] / can I [bring|take] [my|a] dog[?| on the train?] / are dogs [allowed|welcome] [on the train|on board]? / may my dog [come|travel] with me? / I have a dog, can it come? / what do I pay for my dog? | Dogs are welcome and travel for 7 marks.
fares | 9 marks | A bicycle ticket costs 9 marks. / Bicycles travel in the last carriage for 9 marks. / You pay 9 marks for your bicycle. / The fare for a bicycle is 9 marks. | [how much is|what is the price of|what is the fare for] a bicycle[?| ticket?] / can I [bring|take] [my|a] bicycle[?| on the train?] / are bicycles allowed on the train? / what do I pay for my bicycle? | You can take your bicycle for 9 marks.
fares | 15 percent | Groups of eight or more get 15 percent off. / There is a discount of 15 percent for groups. / A group pays 15 percent less. / Schools and other groups save 15 percent. | [is there|do you have] a [group discount|discount for groups]? / [how much|what] do groups [save|get off]? / do we pay less as a group? / how big is the group discount? | Groups of eight or more get 15 percent off.
rules | 3 days | You get your money back until 3 days before departure. / Refunds are paid until 3 days before departure. / Cancel at least 3 days before departure and we return the full fare. / Later than 3 days before departure there is no refund. | [can I get|how do I get|until when can I get] [a refund|my money back]? / can I cancel my ticket? / what is the refund rule? / until when can I cancel? / how does a refund work? | You can get a full refund until 3 days before departure.
rules | 6 marks | Changing a ticket costs 6 marks. / A ticket can be changed for 6 marks. / For 6 marks we change your ticket to another night. / The fee for a change is 6 marks. | [how much does it cost|what does it cost] to change [a ticket|my ticket|the date]? / can I change [a ticket|my ticket|the date]? / what is the change fee? / I want to travel on another night, what does a change cost? | You can change your ticket for 6 marks.
rules | 25 kilograms | Each guest may bring two bags of up to 25 kilograms each. / The luggage limit is two bags of 25 kilograms. / A bag may weigh at most 25 kilograms. / Bags over 25 kilograms must go as freight. | [how much luggage|how many bags] [can|may] I [bring|take]? / what is the luggage limit? / how heavy may my [bag|luggage|suitcase] be? / is there a limit for luggage? | You may bring two bags of up to 25 kilograms each.
rules | 22:30 | Quiet hours begin at 22:30. / From 22:30 on guests must be quiet. / At 22:30 the lights are turned down and the quiet hours begin. / Please do not talk loudly after 22:30. | when do the quiet hours [begin|start]? / [from when|from what time] must [I|guests] be quiet? / when are the lights turned down? / what are the quiet hours? / how late may we talk? | The quiet hours begin at 22:30.
travel | 45 minutes | Breakfast is served 45 minutes before arrival. / The guard brings breakfast 45 minutes before arrival. / Guests are woken with breakfast 45 minutes before arrival. / You get your breakfast 45 minutes before the train arrives. | when is breakfast [served|brought]? / [when|at what time] do I get [breakfast|my breakfast]? / how long before arrival is breakfast? / when will I be woken with breakfast? | Breakfast is served 45 minutes before arrival.
travel | NightOwl | The wireless network on board is called NightOwl. / Choose the network NightOwl for free internet. / Internet is free on board; the network is NightOwl. / Your phone finds the network NightOwl on every train. | is there [internet|wireless internet|a network] on [board|the train]? / what is the [network|wireless network] called? / which network do I choose? / how do I get internet on the train? | Yes, choose the free network NightOwl.
travel | 3 marks | A shower on board costs 3 marks. / You can take a shower for 3 marks. / The guard sells a shower token for 3 marks. / The shower in the first carriage costs 3 marks. | [can I|where can I] [take|have] a shower[?| on the train?] / [how much is|what does it cost to take|what is the price of] a shower? / is there a shower? | You can take a shower for 3 marks.
travel | 30 minutes | Boarding begins 30 minutes before departure. / You can board 30 minutes before departure. / The doors open 30 minutes before departure. / Guests may get on the train 30 minutes before it leaves. | when [does boarding begin|can I board|can I get on the train|do the doors open]? / how early can I [board|get on]? / how long before departure is boarding? / when should I be on the platform? | You can board 30 minutes before departure.
rules | 60 days | Lost things are kept for 60 days. / We keep what you lost for 60 days. / After 60 days lost things are given away. / Lost property waits 60 days for its owner. | how long [do you keep|are] lost [things|things kept|property kept]? / for how many days do you keep lost things? / what happens to lost things? / how long do I have to collect a lost bag? | We keep lost things for 60 days.
rules | Corvane | The lost property office is in Corvane. / Everything left on our trains goes to the lost property office in Corvane. / Go to Corvane to collect what you lost. / In Corvane is the lost property office. | where is [the lost property office|the lost and found]? / where can I [find|collect|get back] [lost things|my lost bag|what I lost]? / I left my coat on the train, where is it? / I have lost my bag, where do I ask? | The lost property office is in Corvane.
parcels | 18 kilograms | A parcel may weigh at most 18 kilograms. / The limit for a parcel is 18 kilograms. / We carry parcels of up to 18 kilograms. / Parcels over 18 kilograms are not taken. | how heavy [may|can] [a|my] parcel be? / what is the [weight limit|limit] for [a parcel|parcels]? / what may a parcel weigh? / is there a limit for parcels? | A parcel may weigh up to 18 kilograms.
parcels | 5 marks | A small parcel costs 5 marks. / The price of a small parcel is 5 marks. / For a small parcel you pay 5 marks. / We send small parcels for 5 marks. | [how much is|what is the price of|what do I pay for] a small parcel? / how much does a small parcel cost? / what does it cost to send a small [parcel|box]? / I want to send a small parcel, what do I pay? | A small parcel costs 5 marks.
parcels | 12 marks | A large parcel costs 12 marks. / The price of a large parcel is 12 marks. / For a large parcel you pay 12 marks. / We send large parcels for 12 marks. | [how much is|what is the price of|what do I pay for] a [large|big] parcel? / how much does a large parcel cost? / what does it cost to send a large [parcel|box]? / I want to send a large parcel, what do I pay? | A large parcel costs 12 marks.
parcels | 9:00 | Parcels arrive by 9:00 the next morning. / Every parcel is delivered by 9:00 the next morning. / What you send today arrives by 9:00 tomorrow. / By 9:00 in the morning all parcels are delivered. | when [does|will] [a|my] parcel arrive? / how [fast|quick] is a parcel? / when are parcels delivered? / how long does a parcel take? / by when will my parcel be there? / my parcel must be there tomorrow, when does it come? | Your parcel arrives by 9:00 the next morning.
parcels | 19:30 | The parcel counter closes at 19:30. / Parcels are taken until 19:30. / Bring your parcel before 19:30. / At 19:30 the parcel counter closes. | when does the parcel [counter|desk] close? / until when [can|may] I [bring|drop off|hand in] [a|my] parcel? / how late can I bring a parcel? / how long is the parcel counter open? | The parcel counter closes at 19:30.
parcels | 200 marks | Each parcel is insured up to 200 marks. / The insurance covers 200 marks for each parcel. / If a parcel is lost, we pay up to 200 marks. / A lost or broken parcel is covered up to 200 marks. | [is|are] [my parcel|a parcel|parcels] insured? / how much [insurance|cover] does a parcel have? / what do you pay if [a|my] parcel is lost? / what happens if my parcel breaks? | Each parcel is insured up to 200 marks.
parcels | fireworks | Live animals and fireworks may not be sent. / We do not carry live animals or fireworks. / A parcel must not hold live animals or fireworks. / Fireworks and live animals are forbidden in parcels. | what [may not be sent|can I not send|is forbidden in parcels]? / which things are [forbidden|not allowed] in a parcel? / what must not be in a parcel? / what do you refuse to carry? | Live animals and fireworks may not be sent.
club | Pillow Club | The club for our regular guests is the Pillow Club. / Regular guests join the Pillow Club. / The Pillow Club is the club of Northline. / Join the Pillow Club if you travel often. | [do you have|is there] a [club|club for regular guests]? / what is [the|your] club called? / which club can I join? / I travel often, is there something for me? | Yes, regular guests can join the Pillow Club.
club | 24 marks | The club costs 24 marks a year. / A year in the club costs 24 marks. / Members of the club pay 24 marks a year. / The yearly club fee is 24 marks. | [how much is|what is] the [club|yearly] fee? / [how much does|what does] [the club|a year in the club|the membership] cost? / what do members pay? / how much do I pay to join the club? | The club costs 24 marks a year.
club | tenth | Members of the club get every tenth night free. / Every tenth night is free for club members. / The reward for members is that every tenth night is free. / After nine nights, the tenth night costs a member nothing. | what [do|can] [members|club members] get? / what is the [reward|benefit|advantage] of the club? / why should I join the club? / what does the club give me? | Members get every tenth night free.
rules | 50 minutes | If a train is more than 50 minutes late, guests get the whole fare back. / A delay of more than 50 minutes gives you the whole fare back. / We pay back the whole fare when the train is over 50 minutes late. / After 50 minutes of delay, ask the guard for your money. | what happens if [the|my] train is late? / [do I get|when do I get] money back for a delay? / my train [is|was] late, what can I do? / what is the rule for delays? | If the train is over 50 minutes late, you get the whole fare back.
rules | 6 days | Complaints are answered within 6 days. / We answer each complaint within 6 days. / Who complains gets an answer within 6 days. / Within 6 days every complaint has its answer. | how [fast|quickly|soon] [are complaints answered|do you answer a complaint]? / when will I get an answer to my complaint? / how long does a complaint take? / I want to complain, when do I hear from you? | We answer every complaint within 6 days.
rules | 48 hours | Guests in a wheelchair should tell us 48 hours before. / Help with a wheelchair must be asked for 48 hours before departure. / Please book wheelchair help 48 hours before. / A wheelchair place can be booked until 48 hours before. | [how do I|when must I|can I] [book|ask for] [wheelchair help|help with a wheelchair]? / I use a wheelchair, [what should I do|can I travel]? / is there help for guests in a wheelchair? | Please tell us 48 hours before and we will help with your wheelchair.
"""

# Each attribute of a train: topic | column | statements | questions | answers
TRAIN = """
trains | 1 | The {0} goes to {1}. / The {0} carries its guests to {1}. / {1} is where the {0} ends. / If you want to wake up in {1}, take the {0}. | where does the {0} [go|end|go to|take me]? / [what|which town] is the [destination|last stop|end] of the {0}? / in which town does the {0} end? / where do I wake up if I take the {0}? | The {0} goes to {1}.
trains | 2 | The {0} leaves at {2}. / At {2} the {0} leaves. / The departure of the {0} is at {2}. / Guests of the {0} must be there at {2}, when it leaves. | [when|at what time|what time] does the {0} [leave|depart|start]? / what is the departure time of the {0}? / when is the departure of the {0}? / tell me when the {0} leaves. | The {0} leaves at {2}.
trains | 3 | The {0} arrives at {3}. / At {3} the {0} arrives. / The arrival of the {0} is at {3}. / The night on the {0} ends at {3}, when it arrives. | [when|at what time|what time] does the {0} [arrive|get in|come in]? / what is the arrival time of the {0}? / when is the arrival of the {0}? / tell me when the {0} arrives. | The {0} arrives at {3}.
trains | 4 | The {0} is painted {4}. / The carriages of the {0} are {4}. / You know the {0} by its {4} carriages. / {4} is the colour of the {0}. | [what|which] colour is the {0}[?| train?| painted?] / how do I recognise the {0}? / what do the carriages of the {0} look like? / tell me the colour of the {0}. | The {0} is painted {4}.
trains | 5 | Breakfast on the {0} is {5}. / On the {0} guests get {5} for breakfast. / The cook of the {0} makes {5} in the morning. / In the morning the {0} smells of {5}. | what is [for breakfast|the breakfast] on the {0}? / what [can I eat|do I eat|do I get] [in the morning|for breakfast] on the {0}? / which breakfast does the {0} have? / what does the cook of the {0} make? | Breakfast on the {0} is {5}.
"""
TRAINS = (
    ("Heron", "Saltwick", "21:40", "6:15", "emerald", "porridge"),
    ("Kestrel", "Tarnfoot", "22:10", "5:50", "crimson", "waffles"),
    ("Comet", "Aldmere", "23:25", "7:05", "midnight blue", "omelette"),
    ("Juniper", "Eskerby", "20:50", "6:40", "ivory", "pancakes"),
    ("Marigold", "Dunmarrow", "19:55", "7:30", "amber", "rye bread"),
)

# Each attribute of a station: topic | column | statements | questions | answers
STATION = """
stations | 1 | In {0} our trains leave from platform {1}. / Go to platform {1} in {0}. / Platform {1} is the night-train platform in {0}. / The station of {0} keeps platform {1} for Northline. | [which|what] platform [do I need|do the trains leave from|is it|do I go to] in {0}? / from which platform do you leave in {0}? / where in {0} station do I find the train? / what is the platform number in {0}? | In {0} our trains leave from platform {1}.
stations | 2 | The station master in {0} is {2}. / {2} is the station master in {0}. / In {0} the station master is called {2}. / Ask {2}, the station master, when you are in {0}. | who is the station master [in|of|at] {0}? / what is the name of the station master [in|of|at] {0}? / who [leads|runs] the station [in|of] {0}? / whom do I ask for at {0} station? | The station master in {0} is {2}.
stations | 3 | The lounge in {0} serves {3}. / In {0} our lounge serves {3} to all guests. / Guests who wait in {0} get {3} in the lounge. / {3} is what you drink in the lounge in {0}. | what [does the lounge serve|can I drink|do I get in the lounge|is served in the lounge] in {0}? / [what|which drink] is there in the lounge in {0}? / what can I drink in the {0} lounge? / which drink does the {0} lounge have? | The lounge in {0} serves {3}.
"""
STATIONS = (
    ("Aldmere", "4", "Mrs Okafor", "ginger tea"),
    ("Corvane", "9", "Mr Lindqvist", "hot chocolate"),
    ("Eskerby", "2", "Mrs Varga", "apple punch"),
    ("Tarnfoot", "11", "Mr Delacroix", "mint lemonade"),
    ("Saltwick", "6", "Mrs Tanaka", "coffee with cinnamon"),
    ("Dunmarrow", "3", "Mr Abernathy", "elderflower water"),
)


def _fact(line: str, key: str, names: tuple[str, ...] = ()) -> Fact:
    topic, _, statements, questions, answers = (part.strip() for part in line.split(" | "))
    filled = [expand(text.format(*names)) for text in (statements, questions, answers)]
    return Fact(topic, key, *([re.sub(r"\s+([?.])", r"\1", t) for t in texts] for texts in filled))


def all_facts() -> list[Fact]:
    """Every fact, in a fixed order."""
    facts = [_fact(line, line.split(" | ")[1].strip()) for line in SINGLE.strip().splitlines()]
    for table, rows in ((TRAIN, TRAINS), (STATION, STATIONS)):
        for names in rows:
            for line in table.strip().splitlines():
                value = names[int(line.split(" | ")[1])]
                facts.append(_fact(line, f"platform {value}" if "platform {1}" in line else value, names))
    return facts
