"""Invented people and places for the canaries: written for this project, naming nobody on purpose.

The lists are long so that two secrets rarely share a part: a decoy with the right city would be easier to
tell from the truth, and exposure would no longer measure the whole secret. Entries within a list are
distinct; appending to a list changes which canaries a seed gives, so that is a new version of the data.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIVEN_NAMES = _words(
    """
    Adela Adrian Agnes Akira Alba Alden Alina Alistair Amara Ambrose Amina Anders Anika Ansel Anthea Antonia
    Arjun Arlo Arthur Astrid Aubrey Aurelia Bashir Beatrix Benedikt Bertram Bianca Bjorn Bohdan Bridget
    Bruno Calliope Camille Carlos Casimir Cecily Chandra Chidi Clara Clement Corinna Cosmo Cyrus Dalia
    Damian Daphne Darius Delphine Denzel Dimitri Dorothea Dragan Edith Edmund Eilidh Elias Elspeth Emeka
    Emil Enid Ernesto Esme Eskil Eudora Evander Fabian Farida Felix Fergus Fiona Flora Florian Freya Gareth
    Gemma Gideon Gisela Goran Greta Gustav Gwendolyn Hakim Hamish Hanna Harriet Hector Helga Henrik Hilda
    Hiroshi Horace Ibrahim Ida Ignatius Ilse Imogen Ingrid Iris Isidore Ivana Jacinta Jarvis Jasper Joanna
    Jolene Jonas Josefina Juliet Kamal Karin Kasper Katya Keira Kenji Kirsten Klaus Lambert Leander Leila
    Leopold Lidia Linus Lorna Lucian Ludmila Lydia Mabel Magnus Maite Malcolm Manuela Marcel Margit Marius
    Matilda Maurice Melvin Mercy Mikhail Minerva Miriam Mordecai Nadia Nathaniel Nerys Niamh Nikolai Nina
    Nora Obadiah Octavia Odette Olaf Olivia Omar Oona Orlando Oscar Ottilie Padma Pascal Patience Pavel
    Perpetua Petra Philippa Piers Quentin Radek Rafael Ramona Reuben Rhiannon Roderick Rosalind Rowan Rufus
    Sabine Salome Samir Saskia Selwyn Serena Sigrid Silas Simone Solveig Stefan Sunita Sven Sylvia Tabitha
    Tamsin Tariq Thaddeus Theodora Tobias Tove Ulrich Ursula Valentin Vera Viggo Viola Vivek Wanda Wendell
    Wilhelmina Winston Xavier Yara Yusuf Yvette Zelda Zoltan
    """
)

FAMILY_NAMES = _words(
    """
    Abernathy Achterberg Adeyemi Ainsworth Albrecht Aldridge Almqvist Amherst Andrada Appleyard Ardizzone
    Arkwright Ashdown Atherton Babcock Bainbridge Balakrishnan Bancroft Barrientos Bartlett Beaumont Bellamy
    Bergstrom Birtwhistle Blackwood Bonaventura Borowski Bracegirdle Brandvold Brightwater Brockhurst
    Bulstrode Cabrera Calloway Carmichael Castellano Cavendish Chadwick Chatterjee Cholmondeley Clutterbuck
    Colquhoun Cordova Cranston Crowther Dagenham Dahlgren Dalrymple Danforth Davenport Delacroix Desrosiers
    Dimitrov Donnelly Drummond Dubrovsky Dunwoody Eastlake Eberhardt Edgeworth Ekwueme Ellingham Engelhardt
    Escobedo Fairbrother Falkenberg Farquhar Featherstone Fenwick Fitzwilliam Fjeldstad Forsythe Fothergill
    Fredriksen Galbraith Gallagher Garibaldi Gatherington Gilchrist Glendower Goldwater Grenville Grimshaw
    Gunnarsson Haldane Halvorsen Hargreaves Hartigan Hathaway Hawthorne Heatherington Heikkinen Herrington
    Hildebrand Hollingsworth Horowitz Huddleston Ibarra Igwe Illingworth Ingersoll Ishikawa Jankowski
    Jellicoe Jessop Johannsen Kanagawa Karlsson Kavanagh Kellerman Kerrigan Kilpatrick Kingsley Kirkbride
    Kowalczyk Krishnan Kristoffersen Lachance Lancaster Langstaff Lattimore Leadbetter Leclerc Lindqvist
    Llewellyn Lockhart Longbottom Lovelace Lundgren Macalister Mackintosh Malinowski Mandelbaum Marchetti
    Marlborough Matsumoto Mbeki McAllister Meadowcroft Mendoza Merriweather Michalski Middleton Montague
    Moreau Mountjoy Mukherjee Nakagawa Napier Nethercott Nightingale Nordstrom Northcote Nwosu Oakenfold
    Obermeyer Ogilvie Okonkwo Oldershaw Olufsen Oppenheim Ormerod Osterberg Pankhurst Papadakis Partridge
    Pemberton Pendergast Penhaligon Pettigrew Pickersgill Plantagenet Ponsonby Postlethwaite Prendergast
    Quartermaine Quigley Radcliffe Raghunathan Ramsbottom Ravenscroft Redgrave Rosenthal Rothwell Rutherford
    Sandoval Satterthwaite Scarborough Schonfeld Seabright Sengupta Shackleton Silverstone Skarsgard
    Somerville Sorensen Stallworth Steinmetz Stradling Sutherland Swithin Tanaka Tattersall Templeton
    Thackeray Thistlewood Thorndyke Tillotson Toivonen Trelawney Trescothick Underhill Unsworth Valdez
    Vandermeer Vasquez Venkatesan Villanueva Wadsworth Wainwright Wallenberg Warburton Weatherby Wedgwood
    Westergaard Whitcombe Whittaker Wigglesworth Willoughby Winterbourne Wolstenholme Woodhouse Wroblewski
    Yarborough Yamanaka Zabriskie Zimmermann Zetterlund
    """
)

MONTHS = _words(
    """
    January February March April May June July August September October November December
    """
)

STREET_NAMES = _words(
    """
    Acorn Alder Almond Amber Anchor Apple Arbour Ash Aspen Badger Barley Basin Beacon Beech Bellfield Birch
    Blossom Bluebell Bramble Briar Brook Buttercup Canal Candle Castle Cedar Chapel Cherry Chestnut Clover
    Cobble Copper Coral Cottage Cowslip Crane Cricket Crimson Crystal Cypress Daisy Damson Deer Dove Drover
    Elder Elm Ember Falcon Fern Ferry Fiddler Field Finch Flint Forge Fountain Foxglove Garnet Gatehouse
    Ginger Goose Gorse Granary Granite Harbour Hawthorn Hazel Heather Heron Hickory Hillside Holly Honey
    Hornbeam Iron Ivy Jasmine Juniper Kestrel Kiln Kingfisher Lantern Larch Lark Laurel Lavender Lilac Lime
    Linden Linnet Magnolia Maple Marigold Market Marsh Meadow Mill Mint Mulberry Nettle Nutmeg Oak Olive
    Orchard Osprey Otter Paddock Pear Pebble Pine Plum Poplar Poppy Primrose Quarry Quince Raven Reed Ridge
    Rosemary Rowan Saddler Saffron Sandpiper Sorrel Sparrow Spruce Starling Swallow Sycamore Tanner Teasel
    Thistle Thyme Timber Tulip Turnstone Velvet Violet Walnut Weaver Wheat Willow Windmill Wren Yarrow Yew
    """
)

STREET_KINDS = _words(
    """
    Street Road Lane Avenue Close Drive Court Crescent Terrace Way Place Square Hill Walk Row Gardens
    """
)

# A town is one of the first parts and one of the second: "Port Ellery", "Upper Carrow".
TOWN_FIRST = _words(
    """
    Port Upper Lower Great Little North South East West New Old Saint Mount Lake Fort Long High Market
    Castle Abbots Bishops Kings Queens Stoke Temple Green White Black Red Stony
    """
)

TOWN_SECOND = _words(
    """
    Alverdale Ambersham Ardenfold Ashcombe Balmoor Barrowby Belcaster Birkenfell Bramsford Brackwell
    Caldermere Carrow Castering Chelverton Claymont Corbridge Cresswick Dalesend Dunmarrow Eastry Ellery
    Elmsworth Fallowby Farrington Fenwater Garsdale Glenmarch Granby Halloway Harcaster Hathersea Hexworth
    Ingleby Ironbridge Kelmarsh Kettering Kirkfold Lakenheath Langmere Larkhill Linfield Lowick Maplestead
    Marrowby Melcombe Merrivale Nettleham Norcaster Oakhampton Orrinsea Overbury Pellworth Penmoor Ravensea
    Redmarch Rillington Rosedene Sandwell Selmere Shelford Silverdale Southwold Stanmoor Swanmere Tarrington
    Thornby Tilbrook Ullersby Vennford Walcaster Wexmoor Whitmarsh Wilderby Winterfold Wyndale Yarmere
    """
)

PLANTS = (
    "tulips",
    "carrots",
    "willow",
    "mint",
    "onions",
    "maple",
    "roses",
    "beans",
    "oak",
    "thyme",
    "cedar",
    "lettuce",
    "pears",
    "plums",
    "basil",
    "garlic",
    "ferns",
    "ivy",
    "leeks",
    "apples",
    "cherries",
    "pumpkins",
    "radishes",
    "sage",
    "parsley",
    "lavender",
    "clover",
    "barley",
    "quinces",
    "poppies",
    "hazel",
    "birch",
)
