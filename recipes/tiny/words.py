"""The word banks of the text generator; all of it written for this project."""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(",") if word.strip())


NAME_STARTS = _list("""Vel, Tarro, Bram, Oster, Kell, Maple, Hazel, Pen, Win, Rook, Stan, Thorn, Wil, Ash, Birch,
    Mar, Lin, Sil, Cop, Fern, Gold, Green, Black, White, Red, Stone, Summer, Winter, Rain, Mill, Wood, Oak, Elm,
    Fox, Swan, Lark, Quill, Ty, Or, Lum, Nev, Sor, Tam, Ulm, Yar, Zel, Ivor, Jun, Hol, Pebble""")
NAME_ENDS = _list("""mouth, wick, ton, ford, bridge, ham, bury, field, dale, well, port, stead, brook, hill, ley,
    worth, den, fell, pool, marsh, gate, cliff, cross, mill, haven, ridge, minster, combe, bank, view""")

BANKS: dict[str, tuple[str, ...]] = {
    "girl": _list("""Mia, Anna, Lily, Rosa, Clara, Nora, Ella, Ida, Maya, Tess, Ruth, Vera, Zoe, Alice, Emma, Greta,
    Hana, Ivy, June, Kate, Lena, Molly, Nina, Olga, Pia, Sara, Tilda, Una, Wendy, Amina, Bella, Carla, Dora, Edith,
    Fatima, Grace, Helen, Iris, Joan, Leila, Marta, Nadia, Priya, Rita, Sofia, Yara"""),
    "boy": _list("""Tom, Ben, Sam, Leo, Max, Jack, Otto, Finn, Hugo, Ned, Paul, Emil, Karl, Omar, Ravi, Theo, Will,
    Adam, Bruno, Colin, David, Erik, Felix, George, Henry, Ivan, Jonas, Kofi, Luca, Marco, Noah, Oscar, Peter, Rex,
    Simon, Toby, Viktor, Walter, Yusuf, Anton, Basil, Cyril, Daniel, Edgar, Frank, Gus, Harry"""),
    "surname": _list("""Baker, Cole, Dunn, Ellis, Fisher, Gray, Hart, Ingram, Jones, Kent, Lowe, Marsh, Nash, Oakes,
    Page, Quinn, Reed, Stone, Tate, Underhill, Vale, Webb, Young, Abbot, Birch, Carver, Drake, Finch, Grove, Hale,
    Lane, Moss, Norton, Potter, Rivers, Swift, Thorne, Wells, Archer, Bell, Cook, Day, Frost, Holt, King, Lake"""),
    "animal": _list("""cat, dog, rabbit, fox, bear, mouse, duck, hen, owl, frog, goat, sheep, cow, horse, pig, donkey,
    squirrel, hedgehog, badger, otter, beaver, deer, wolf, crow, robin, sparrow, swan, goose, turtle, snail, mole,
    bat, bee, butterfly, lizard, pony, kitten, puppy, lamb, hamster, parrot, seal, crab, fish"""),
    "adj": _list("""small, big, old, bright, dark, quiet, soft, warm, cold, clean, dusty, new, strange, simple,
    pretty, heavy, light, round, little, green, blue, red, yellow, brown, white, grey, golden, wooden, tiny, huge,
    plain, fine, beautiful, ordinary, old-fashioned, famous, lovely, striped"""),
    "trait": _list("""small, old, young, quiet, happy, shy, brave, kind, clever, funny, gentle, tall, busy, lucky,
    proud, careful, friendly, cheerful, honest, patient, curious, polite, strong, poor, rich, wise, little, lazy"""),
    "colour": _list("red, blue, green, yellow, brown, black, white, grey, orange, purple, pink, golden, silver, cream"),
    "mood": _list("""happy, glad, proud, calm, pleased, cheerful, excited, thankful, merry"""),
    "badmood": _list("sad, worried, upset, lonely, afraid, cross, tired, sorry, nervous, disappointed"),
    "thing": _list("""ball, kite, hat, book, lamp, basket, bell, boat, cup, key, drum, box, coat, spoon, ring, clock,
    blanket, bucket, ladder, map, mirror, pencil, umbrella, scarf, chair, cart, whistle, candle, coin, button, rope,
    bag, brush, bottle, toy train, doll, teapot, jar, shell, feather, stone, letter, picture, watch, pair of gloves,
    notebook, paintbox, wooden horse, lantern, flute"""),
    "food": _list("""bread, soup, cheese, apples, pears, honey, porridge, cake, pie, stew, rice, beans, carrots, jam,
    biscuits, eggs, potatoes, plums, cherries, nuts, pancakes, butter, milk, tea, onions, cabbage, tomatoes, noodles,
    fish, mushrooms, berries, corn, peas, salad, dumplings, toast"""),
    "fruit": _list("apples, pears, plums, cherries, nuts, biscuits, eggs, carrots, berries, cakes, tomatoes"),
    "where": _list("""in the garden, in the park, by the river, in the forest, at the market, on the hill, at school,
    in the kitchen, near the lake, on the farm, by the sea, in the library, at the station, behind the house,
    in the village, under the old tree, on the bridge, in the attic, by the window, at the harbour, in the meadow,
    in the barn, at the playground, near the mill, in the square"""),
    "wherefound": _list("""under the bed, behind the door, in the tall grass, in a drawer, on top of the shelf,
    under a leaf, between two stones, in the pocket of a coat, behind the curtain, at the bottom of the basket,
    near the pond, under the table, on the roof, inside an old boot, by the gate, in the shed"""),
    "weather": _list("""sunny, rainy, windy, cloudy, snowy, foggy, warm, cold, stormy, mild, hot, frosty"""),
    "season": _list("spring, summer, autumn, winter"),
    "day": _list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "month": _list("""January, February, March, April, May, June, July, August, September, October, November,
    December"""),
    "daytime": _list("morning, afternoon, evening"),
    "job": _list("""baker, farmer, teacher, doctor, fisher, tailor, carpenter, painter, gardener, cook, miller,
    sailor, driver, nurse, builder, postman, shoemaker, potter, singer, writer, shepherd, blacksmith, librarian,
    engineer, clockmaker, weaver, beekeeper, gardener, musician, captain"""),
    "friendkind": _list("friend, neighbour, brother, sister, cousin, classmate"),
    "elder": _list("mother, father, grandmother, grandfather, aunt, uncle, teacher"),
    "skill": _list("""swim, sing, read, write, draw, paint, cook, bake bread, ride a bicycle, play the flute, row a
    boat, climb a tree, tie a knot, sew a button, plant seeds, whistle, dance, count to one hundred, skate, knit a
    scarf, build a wall, milk a cow, mend a net, tell the time, juggle"""),
    "chore": _list("""sweep the floor, wash the dishes, feed the hens, water the plants, carry the wood, fold the
    clothes, set the table, paint the fence, pick the apples, clean the window, walk the dog, bake a cake, mend the
    roof, sort the books, pull out the weeds, milk the goat"""),
    "doing": _list("""reading a book, singing a song, looking at the clouds, playing with a ball, drawing a picture,
    walking slowly, eating an apple, counting the birds, digging a hole, throwing stones into the water,
    listening to the rain, building a tower, writing a letter, making soup, picking flowers, feeding the birds"""),
    "material": _list("""wood, iron, glass, stone, clay, wool, cotton, leather, paper, brass, copper, steel, silk,
    straw, tin, bamboo, rubber, silver"""),
    "shape": _list("round, square, long, flat, narrow, wide, curved, tall, thin, oval"),
    "shopkind": _list("""bakery, bookshop, toy shop, flower shop, bicycle shop, tea house, restaurant, hotel, garage,
    library, museum, swimming pool, cinema, pharmacy, farm shop, laundry, shoe shop, music school, guest house, cafe,
    dairy, gym, theatre, garden centre, print shop, boat yard, hat shop, fish market, workshop, campsite"""),
    "shopadj": _list("""Copper, Blue, Silver, Old, Red, Little, Golden, Green, Quiet, Happy, Round, White, Merry,
    Black, Lucky, Yellow, Painted, Sleepy, Bright, Royal, Crooked, Wooden, Humble, Singing"""),
    "shopnoun": _list("""Kettle, Fox, Anchor, Lantern, Rose, Oak, Bell, Barrel, Swan, Crown, Spoon, Acorn, Wheel,
    Moon, Pear, Bridge, Feather, Boot, Clover, Hare, Teapot, Button, Owl, Ladder, Sparrow, Basket, Mill, Thimble"""),
    "street": _list("""Mill Road, High Street, Church Lane, River Street, Station Road, Market Square, Garden Lane,
    Bridge Street, School Road, King Street, Queen Street, Park Avenue, Hill Lane, Castle Street, Harbour Road,
    Orchard Lane, Forest Way, Lake Road, Canal Street, Tower Street"""),
    "goods": _list("""fresh bread, second-hand books, wooden toys, spring flowers, used bicycles, green tea, hot soup,
    leather shoes, warm coats, goat cheese, apple juice, blue plates, garden tools, music sheets, paper lamps,
    winter boots, straw hats, smoked fish, wool blankets, honey cakes, clay pots, painted cards, brass bells"""),
    "ticket": _list("""a child ticket, a day pass, a family ticket, a season card, a single room, a double room,
    a guided tour, a small box, a large box, a cup of tea, a bowl of soup, a music lesson, a haircut, a repair,
    a boat trip, a monthly card, a parking place, a locker"""),
    "rule": _list("""dogs must be kept on a lead, smoking is not allowed, children must come with an adult,
    food may not be brought in, bicycles must be left outside, guests must show a ticket, shoes must be taken off,
    large bags must be left at the desk, talking is not allowed in the hall, cameras may not be used,
    hats must be taken off, wet coats must be left at the door"""),
    "habitat": _list("""deep forests, dry hills, cold rivers, warm lakes, open fields, high mountains, wet marshes,
    sandy beaches, old barns, stone walls, quiet ponds, snowy plains, small islands, hollow trees, dark caves"""),
    "diet": _list("""seeds, berries, small fish, insects, leaves, roots, worms, nuts, grass, snails, frogs, moss,
    fruit, bark, water plants, flies, eggs, mushrooms"""),
    "bodypart": _list("""long ears, a short tail, a round nose, sharp claws, a thick coat, wide wings, a striped back,
    small eyes, strong legs, a spotted neck, a curved beak, soft feathers, large feet, a bushy tail, thin whiskers"""),
    "landform": _list("""river, lake, valley, wood, hill, bay, canal, marsh, moor, cliff, waterfall, island"""),
    "landmark": _list("""stone bridge, clock tower, old castle, market hall, lighthouse, town wall, windmill,
    fountain, small harbour, wooden church, glass house, botanical garden, long pier, railway museum, salt mine,
    round tower"""),
    "industry": _list("""making cheese, growing apples, building boats, weaving cloth, keeping bees, fishing, mining
    salt, making glass, cutting stone, growing roses, printing books, making clocks, brewing tea, carving wood,
    baking biscuits, raising sheep, making paper, painting pots"""),
    "purpose": _list("""cutting wood, lifting heavy boxes, mixing dough, pumping water, measuring rain, drying herbs,
    sorting seeds, cleaning boots, polishing glass, peeling apples, weighing flour, rolling paper, catching mice,
    warming hands, opening jars, drawing circles, folding cloth, sharpening knives, cooling milk, pressing flowers"""),
    "toolkind": _list("""press, pump, lamp, wheel, cutter, roller, grinder, hook, clamp, lever, scale, whistle, saw,
    bellows, crank, mill, spinner, stove, hoist, brush"""),
    "habitatword": _list("marsh, forest, river, hill, barn, meadow, lake, mountain, sand, snow, garden, night"),
    "way": _list("north, south, east, west"),
    "clean": _list("warm water, a dry cloth, soap, a soft brush, salt, sand, oil, vinegar, a wet sponge"),
    "vehicle": _list("bus, ferry, tram, coach, cable car, steamer, minibus, boat"),
    "adverb": _list("""slowly, quickly, quietly, carefully, happily, gently, softly, loudly, at once, with a smile, 
    with great care, without a word, very early, all day"""),
    "topic": _list("""rain, bread, the sea, winter, friendship, cats, bridges, gardens, music, the moon, books, trees,
    bicycles, snow, soup, birds, markets, clocks, rivers, letters, sleep, apples, boats, colours, wool, lamps"""),
}

KNOWN_THINGS = tuple(
    (name.strip(), what.strip(), use.strip())
    for name, what, use in (
        line.split(";")
        for line in """kettle; a pot with a handle and a spout; boiling water
clock; a thing with hands and numbers; telling the time
umbrella; a folding cover on a stick; staying dry in the rain
spoon; a small bowl with a handle; eating soup
knife; a blade with a handle; cutting bread
hammer; a heavy head on a wooden handle; driving in nails
ladder; two long poles with steps between them; climbing up
lamp; a thing that gives light; seeing in the dark
pencil; a thin stick of wood with a dark core; writing and drawing
key; a small piece of metal; opening and closing a lock
broom; a brush with a long handle; sweeping the floor
bucket; a round pot with a handle; carrying water
needle; a thin piece of steel with a hole; sewing
bell; a hollow cup of metal; calling people
boat; a small ship; travelling over water
bridge; a road over a river; getting to the other side
map; a drawing of the land; finding the way
mirror; a piece of shiny glass; looking at yourself
oven; a hot box in the kitchen; baking bread
pillow; a soft bag; resting the head in bed
scarf; a long piece of cloth; keeping the neck warm
shovel; a wide blade with a long handle; digging
soap; something that makes bubbles with water; washing hands
stamp; a small piece of paper with glue; sending a letter
ticket; a small card; riding on a bus or a train
train; a row of cars on rails; travelling and carrying goods
bus; a long car with many seats; taking people through the town
bicycle; a machine with two wheels and pedals; riding on the road
towel; a large piece of cloth; drying the skin
whistle; a small pipe; making a loud sound
window; a hole in the wall with glass; letting in light
basket; an open box made of straw; carrying things from the market
blanket; a large warm cloth; keeping warm at night
candle; a stick of wax; giving light
calendar; a list of the days of the year; planning the days
compass; a needle that points to the north; finding the way
drum; a round box with a skin; making music
fence; a low wall of wood; keeping animals in
fork; a tool with points; eating
library; a house full of books; reading and borrowing books
lighthouse; a tower with a light by the sea; guiding ships
market; a place with many stalls; buying and selling
mill; a house with a big wheel; making flour
museum; a house with old things; learning about the past
net; many strings tied together; catching fish
parcel; a box that is sent by post; sending things
pump; a machine that moves water; getting water out of the ground
saw; a blade with teeth; cutting wood
scale; a tool with two plates; measuring weight
school; a house with teachers and children; learning
suitcase; a box with a handle; carrying clothes on a trip
tent; a house made of cloth; sleeping outside
thermometer; a glass tube with numbers; measuring how warm it is
wheel; a round thing that turns; moving heavy things""".splitlines()
    )
)
OPPOSITES = tuple(
    (pair.split("-")[0], pair.split("-")[1])
    for pair in _list("""big-small, small-big, hot-cold, cold-hot, old-new, new-old, long-short, short-long, high-low,
    low-high, fast-slow, slow-fast, day-night, night-day, happy-sad, sad-happy, open-closed, closed-open, full-empty,
    empty-full, wet-dry, dry-wet, hard-soft, soft-hard, light-dark, dark-light, early-late, late-early, loud-quiet,
    quiet-loud, clean-dirty, dirty-clean, left-right, right-left, up-down, down-up, rich-poor, poor-rich,
    strong-weak, weak-strong, near-far, far-near, good-bad, bad-good, thick-thin, thin-thick, first-last, last-first,
    young-old, easy-difficult, question-answer, summer-winter, winter-summer, begin-end, come-go, give-take,
    buy-sell""")
)
SOUNDS = tuple(
    (pair.split("-")[0], pair.split("-")[1])
    for pair in _list("""cat-meow, dog-woof, cow-moo, sheep-baa, duck-quack, hen-cluck, pig-oink, horse-neigh,
    frog-croak, bee-buzz, owl-hoot, crow-caw, mouse-squeak, lamb-baa, goose-honk, donkey-hee-haw, wolf-howl""")
)
