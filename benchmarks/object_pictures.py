"""200 classes of objects on photographs, from packages of Debian 12; no picture ships with this project.

    apt-get download tuxpaint-stamps-default mate-backgrounds plasma-workspace-wallpapers     # in an empty folder, debs
    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 gnome-backgrounds
    python benchmarks/object_pictures.py pack debs objects.zip            # what is needed of them, under 20 MiB
    python benchmarks/object_pictures.py make objects.zip my_objects      # train/CLASS/*.jpg and test/CLASS/*.jpg

A picture is one object (one stamp of tuxpaint per class) on a random crop of a photograph; its size, place, angle and
side, and the colours of both, vary. No photograph is in both parts: test pictures show the objects on new backgrounds.
The same --seed draws the same pictures, for any --workers.
"""

import argparse
import io
import itertools
import math
import multiprocessing
import os
import pathlib
import subprocess
import tarfile
import zipfile

import numpy as np
from PIL import Image

# A word that ends in "/" is the folder of those after it. Left out of tuxpaint-stamps-default: symbols/, flags/,
# roadsigns/, military/; most drawings (cartoon/, clothes/, easter/, hanukkah/); what is thin (tools/, arttools/,
# rugby_goal_posts) or small (newyears/, fruit and nuts under 46 pixels); mirrored stamps; and all but one or two of
# those that look alike (graves, gnus, planets, houses, apples, waggons, blackbird and crow, cello and violin).
OBJECTS = """
animals/amphibians/ frog animals/birds/ adelaide-rosella albino_peahen chicken_profile crow crowned_crane cuckoo duck
gander helmeted_guineafowl hen heron_greatblue lark magellanic_penguin magpie ostrich owl peacock pelican penguin
pigeon pink_flamingo rainbow-lorikeet rooster seagull tucan turkey vulture animals/fish/ bluegroper butterflyfish
clownfish lionfish seahorse shrimp stripedfish animals/insects/ Woodlouse fly grasshopper hornet hoverfly xanthia
animals/lizards/ iguana animals/mammals/apes/ chimp gorilla tamarin_emperor animals/mammals/aquatic/ dolphin orca otter
sea_lion whale animals/mammals/ badger elephant ferret giraffe hippopotamus pig rabbit_little rhino_black wildboar
animals/mammals/bears/ european-bear animals/mammals/bears/toys/ edward_bear animals/mammals/bovines/ bison cow
cow_white gnu-baby goat mountaingoat ram sheep yak zebu animals/mammals/camel/ camel dromedary animals/mammals/cats/
lion-2 tiger animals/mammals/deer/ caribou deer animals/mammals/dogs/ dingo dog fox animals/mammals/equines/ donkey
horse zebra animals/mammals/rodents/ beaver capybara marmot mouse rabbit-2 squirrel animals/marsupials/ kangaroo koala
wombat animals/shellfish/ abalone murray-mussel clothes/armor/cartoon/ knight_helmet clothes/hats/ sombrero
food/dessert/cartoon/ birthday_cake food/fruit/ Cherry_Stella Strawberry2 apple_red avocado cherimoya grapes kiwi lemon
orange_seville pineapple sliced_lime sliced_orange food/nuts/ walnut food/ pizza food/spices/ ginger food/vegetables/
broccoli corn eggplant onion redlettuce yam yellowpepper hobbies/ binoculars camera_35mm hobbies/music/brass/ trumpet
hobbies/music/percussion/ cymbal_crash drumkit hobbies/music/string/ guitar_classical guitar_electric violin household/
Lightbulb cylinder garbagecan kettle rubberduck toilet wheelie_bin household/dishes/cartoon/ pressure_cooker
household/dishes/ mug pitcher_small teapot household/tools/ cementmixer paintbrush_large toolbox people/ fireman200b
people/toys/ grannysmith plants/flowers/ adeenia anemone_red anthoorium daffodil flower4 flower7 iris marigold pigface
red-gazania rose whitestar-petunia yellow-flower plants/mushrooms/ cep-1 plants/trees/ holm_oak liberia-palm pinecone
rambutan seasonal/christmas/ Christmas_Tree_photo Christmas_pudding German_Christmas_toy Mince_Pie Roast_turkey
xmaswreath space/ apollo_lander spacewalk space/moon/ moon_full space/planets/ 3_earth 5_jupiter 6_saturn sports/
australian_rules_football basketball football soccer tennis_ball trophy_cup sports/cartoon/ football_helmet_front
town/houses/cartoon/ circus windmill town/monuments/ inukshuk-photo town/ uk_post_box usps_mailbox vehicles/ 7spoke256
garbagetruck wheel_tractor vehicles/auto/ beetle truck vehicles/construction/cartoon/ terex vehicles/construction/
dumper vehicles/cycle/ pink_tricycle vehicles/emergency/ firetruck vehicles/farming/cartoon/ tux_tractor
vehicles/flight/ balloon360 vehicles/flight/planes/ 747 vehicles/masstransit/ green_korean_bus vehicles/race/ indycar
vehicles/ship/ chineseJunk
"""
# Left out: drawings, gradients and renderings (all others of these packages), and copies in other sizes.
TRAIN_PHOTOGRAPHS = """
mate/nature/ Aqua.jpg Blinds.jpg Dune.jpg FreshFlower.jpg Garden.jpg GreenMeadow.jpg LadyBird.jpg Storm.jpg
TwoWings.jpg Wood.jpg YellowFlower.jpg mate/abstract/ Elephants.jpg share/backgrounds/ Bridge_by_Sander_Klootwijk.jpg
Dragonfly_by_Bolly.jpg Picture_0B_by_freespace.jpg Wine_by_Jakkub_Mede.jpg analogpattern_by_Peter_Nerlich.jpg
free_by_Peter_Nerlich.jpg friends_by_Aitzol_Berasategi.jpg greentock_by_Peter_Nerlich.jpg life_by_Aitzol_Berasategi.jpg
picosdeeuropa_by_Aitzol_Berasategi.jpg seeding_by_Clements_Engelhardt.jpg sunset_by_Aitzol_Berasategi.jpg gnome/
wood-l.webp wallpapers/ Autumn/contents/images/2560x1600.jpg ColdRipple/contents/images/2560x1600.jpg
ColorfulCups/contents/images/2560x1600.jpg EveningGlow/contents/images/2560x1600.jpg Grey/contents/images/2560x1600.jpg
Kite/contents/images/2560x1600.jpg OneStandsOut/contents/images/2560x1600.jpg Path/contents/images/2560x1600.jpg
summer_1am/contents/images/2560x1600.jpg Volna/contents/images/5120x2880.jpg
"""
TEST_PHOTOGRAPHS = """
mate/nature/ RainDrops.jpg share/backgrounds/ aitzgorri_by_Aitzol_Berasategi.jpg Kleiber_by_Lukas_Baubkus.jpg
Picture_1A_by_freespace.jpg wallpapers/ BytheWater/contents/images/2560x1600.jpg
DarkestHour/contents/images/2560x1600.jpg FallenLeaf/contents/images/2560x1600.jpg
"""
STAMPS = "tuxpaint/stamps/"
OBJECT_SIDE, PHOTOGRAPH_WIDTH = 96, 1280  # pixels in the archive
CROP = 160  # pixels of a photograph: the least side of a background
PNG, JPEG = {"format": "PNG", "optimize": True}, {"format": "JPEG", "quality": 92, "subsampling": 0}
OBJECT_SHARE = (0.4, 0.8)  # the longest side of an object, of the picture's
OUTSIDE = 0.15  # of an object's box may lie outside the picture, in each direction
DEGREES = 20
FLAT = 12  # grey levels: the standard deviation that a background should have
JITTER = 0.3  # of the logarithm of brightness and contrast; half of it for each channel
_archive = {}  # what a worker process has read: its photographs by part, its objects by class


def paths(text, suffix=""):
    """The paths that a list such as OBJECTS names."""
    found, folder = [], ""
    for word in text.split():
        if word.endswith("/"):
            folder = word
        else:
            found.append(f"{folder}{word}{suffix}")
    return found


def class_name(path):
    """A stamp's class: its name in lower case."""
    return pathlib.PurePosixPath(path).stem.lower()


def wanted():
    """Endings of paths in the packages to names in the archive."""
    names = {f"{STAMPS}{path}": f"objects/{class_name(path)}.png" for path in paths(OBJECTS, ".png")}
    for part, text in (("train", TRAIN_PHOTOGRAPHS), ("test", TEST_PHOTOGRAPHS)):
        for path in paths(text):
            names[path] = f"{part}/{path.split('/contents/')[0].replace('/', '_').rsplit('.', 1)[0]}.jpg"
    return names


def object_image(image):
    """A stamp cut to what is not transparent and reduced, RGBA."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 40)).getbbox())
    image.thumbnail((OBJECT_SIDE, OBJECT_SIDE), Image.Resampling.LANCZOS)
    return image


def photograph(image):
    """A photograph, RGB, reduced to PHOTOGRAPH_WIDTH."""
    image = image.convert("RGB")
    image.thumbnail((PHOTOGRAPH_WIDTH, 4 * PHOTOGRAPH_WIDTH), Image.Resampling.LANCZOS)
    return image


def members(package):
    """(path, bytes) of the files of a package that the archive needs."""
    names = wanted()
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as files,
    ):
        for member in files:
            ending = next((ending for ending in names if member.name.endswith(f"/{ending}")), None)
            if ending and member.isfile():
                yield ending, files.extractfile(member).read()


def pack(folder, archive):
    """Write the objects and photographs of the packages in a folder to a zip file; returns how many."""
    names, packages = wanted(), sorted(pathlib.Path(folder).glob("*.deb"))
    if not packages:
        raise SystemExit(f"{folder} holds no package (*.deb); download those that --help names.")
    images = {}
    for path, content in itertools.chain.from_iterable(map(members, packages)):
        image = Image.open(io.BytesIO(content))
        is_object = path.startswith(STAMPS)
        buffer = io.BytesIO()
        (object_image if is_object else photograph)(image).save(buffer, **(PNG if is_object else JPEG))
        images[names[path]] = buffer.getvalue()
    if missing := sorted(path for path, name in names.items() if name not in images):
        raise SystemExit(f"The packages in {folder} lack {len(missing)} pictures, among them {', '.join(missing[:3])}.")
    with zipfile.ZipFile(archive, "w") as file:
        for name in sorted(images):
            file.writestr(zipfile.ZipInfo(name), images[name])  # no times: the same packages make the same file
    return len(images)


def read_archive(archive):
    """Fill `_archive` from the zip file, in each worker process."""
    parts = {"train": [], "test": [], "objects": {}}
    with zipfile.ZipFile(archive) as file:
        for name in sorted(file.namelist()):
            part, _, rest = name.partition("/")
            image = Image.open(io.BytesIO(file.read(name)))
            image.load()
            if part == "objects":
                parts[part][class_name(rest)] = image
            else:
                parts[part].append(image)
    _archive.update(parts)


def background(photographs, size, rng):
    """A random square of a random photograph, mirrored or not, size x size; a flat one is drawn again, a few times."""
    for _ in range(4):
        whole = photographs[rng.integers(len(photographs))]
        shorter = min(whole.size)
        side = math.exp(rng.uniform(math.log(min(CROP, shorter)), math.log(shorter)))
        left, top = (rng.uniform(0, length - side) for length in whole.size)
        box = (left, top, left + side, top + side)
        image = whole.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        if np.std(image.convert("L")) >= FLAT:
            break
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def recoloured(pixels_HxWx3, rng, weight_HxWx1=1.0):
    """Float32 pixels with random contrast about their weighted mean, brightness and gain of each channel."""
    contrast, brightness = np.exp(rng.uniform(-JITTER, JITTER, 2))
    gain_3 = brightness * np.exp(rng.uniform(-JITTER / 2, JITTER / 2, 3))
    mean = np.mean(weight_HxWx1 * pixels_HxWx3) / np.mean(weight_HxWx1)
    return np.float32(gain_3) * ((pixels_HxWx3 - mean) * np.float32(contrast) + mean)


def picture(image, photographs, size, rng):
    """One picture: the object (RGBA) on a background."""
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = size * rng.uniform(*OBJECT_SHARE) / max(image.size)
    image = image.rotate(rng.uniform(-DEGREES, DEGREES), Image.Resampling.BICUBIC, expand=True)
    width, height = (max(1, round(scale * length)) for length in image.size)
    canvas = Image.new("RGBA", (size, size))
    corner = [round(rng.uniform(-OUTSIDE * length, size - (1 - OUTSIDE) * length)) for length in (width, height)]
    canvas.paste(image.resize((width, height), Image.Resampling.LANCZOS), corner)
    object_HxWx4 = np.asarray(canvas, np.float32)
    alpha_HxWx1 = object_HxWx4[..., 3:] / 255
    behind_HxWx3 = recoloured(np.asarray(background(photographs, size, rng), np.float32), rng)
    in_front_HxWx3 = recoloured(object_HxWx4[..., :3], rng, alpha_HxWx1)
    mixed_HxWx3 = alpha_HxWx1 * in_front_HxWx3 + (1 - alpha_HxWx1) * behind_HxWx3
    return Image.fromarray(np.clip(np.rint(mixed_HxWx3), 0, 255).astype(np.uint8))


def write_class(job):
    """The pictures of one class in one part: a random stream of its own, so that the order of jobs does not matter."""
    out, part, name, count, size, seed = job
    rng = np.random.default_rng([seed, *f"{part}/{name}".encode()])
    folder = pathlib.Path(out, part, name)
    folder.mkdir(parents=True)
    for number in range(count):
        image = picture(_archive["objects"][name], _archive[part], size, rng)
        image.save(folder / f"{number:04d}.jpg", **JPEG)


def make(archive, out, *, classes, train, test, size, seed, workers):
    """Write a folder of pictures from what `pack` wrote; returns the number of classes.

    Args:
        archive: path of the zip file.
        out: a folder that does not exist yet, or is empty.
        classes: how many, spread over all by name.
        train, test: pictures per class.
        size: their side in pixels.
        seed: other pictures for another one.
        workers: processes.
    """
    if pathlib.Path(out).exists() and any(pathlib.Path(out).iterdir()):
        raise SystemExit(f"{out} is not empty; name a new folder.")
    if min(train, test, workers) < 1 or size < 8:
        raise SystemExit("--train, --test and --workers are at least 1, and --size at least 8.")
    with zipfile.ZipFile(archive) as file:
        names = sorted(class_name(name) for name in file.namelist() if name.startswith("objects/"))
    if not names:
        raise SystemExit(f"{archive} holds no objects; write it with `pack`.")
    if not 1 <= classes <= len(names):
        raise SystemExit(f"--classes={classes}: there are {len(names)}.")
    names = [names[number * len(names) // classes] for number in range(classes)]
    counts = {"train": train, "test": test}
    jobs = [(out, part, name, count, size, seed) for part, count in counts.items() for name in names]
    with multiprocessing.Pool(workers, read_archive, (archive,)) as pool:
        for _ in pool.imap_unordered(write_class, jobs):
            pass
    return len(names)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="a folder of packages to one zip file")
    packing.add_argument("debs")
    packing.add_argument("archive")
    making = commands.add_parser("make", help="that file to a folder of pictures")
    making.add_argument("archive")
    making.add_argument("out")
    making.add_argument("--classes", type=int, default=200, help="how many of the classes, spread over all by name")
    making.add_argument("--train", type=int, default=200, help="training pictures per class")
    making.add_argument("--test", type=int, default=30, help="test pictures per class")
    making.add_argument("--size", type=int, default=64, help="pixels of a side")
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    args = parser.parse_args()
    try:
        if args.command == "pack":
            count = pack(args.debs, args.archive)
            print(f"{args.archive}: {count} pictures, {os.path.getsize(args.archive) / 2**20:.1f} MiB")
        else:
            sizes = {name: getattr(args, name) for name in ("classes", "train", "test", "size", "seed", "workers")}
            classes = make(args.archive, args.out, **sizes)
            counts = f"{classes * args.train} training and {classes * args.test} test pictures"
            print(f"{args.out}: {classes} classes, {counts}")
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{args.command} failed: {error}") from error


if __name__ == "__main__":
    main()
