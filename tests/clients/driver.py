# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real Anki client without a window: runs inside an environment that has one release.

Reads one JSON request a line, ``{"verb": …, "args": {…}}``, and answers each with one line,
``{"ok": …}`` or ``{"error": {…}}``. One process holds one collection at a time and can hold
another after it. Needs nothing but the standard library and `anki`, any release from 2.1.39.

Releases differ in names (camel case, then snake case) and in a few habits that the methods
below say; `first` takes whichever name this release has.
"""

import base64
import hashlib
import inspect
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import unicodedata
import zipfile
from pathlib import Path

# The engine and old Python layers print; the answers keep the real standard output.
ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
os.dup2(2, 1)
os.environ.setdefault("RUST_LOG", "error")

from anki.collection import Collection  # noqa: E402
from anki.notes import Note  # noqa: E402

try:
    import anki.sync_pb2 as sync_pb
except ImportError:
    import anki.backend_pb2 as sync_pb

# What the newest engine's check adds to cards that an older engine answered.
BENIGN = ("Added last review time",)

ACTIONS = ("none", "normal", "full", "download", "upload")


def first(owner, *names):
    """The first of `names` that `owner` has."""
    for name in names:
        found = getattr(owner, name, None)
        if found is not None:
            return found
    raise AttributeError(f"none of {names} in {owner!r}")


class Client:
    """The verbs. Everything passed and returned is plain JSON."""

    def __init__(self):
        self.col = None
        self.path = ""
        self.auth = None
        self.endpoint = ""

    # --- the collection itself -------------------------------------------------------

    def open(self, path):
        self.path = path
        self.auth = None
        self.col = Collection(path)
        return {"scheduler": first(self.col, "sched_ver", "schedVer")()}

    def close(self):
        if self.col is not None:
            self.col.close()
            self.col = None

    def reopen(self):
        """As if the program was ended and started again; the login stays."""
        self.close()
        self.col = Collection(self.path)

    @property
    def backend(self):
        return first(self.col, "_backend", "backend")

    def _commit(self):
        # Up to 2.1.66 the Python layer keeps a transaction open.
        if hasattr(self.col.db, "begin"):
            self.col.save()
        # Ids are milliseconds: no other device may make one in those that were used here, and
        # 2.1.39 rolls back a change made in the millisecond of the one before.
        newest = self.col.db.scalar("select max(id) from cards") or 0
        until = min(newest, time.time() * 1000 + 100)
        time.sleep(0.001)
        while time.time() * 1000 <= until:
            time.sleep(0.001)

    def export(self, path):
        """A copy in schema 11, made by the engine itself as for a downgrade."""
        self._copy_to(path)
        copy = Collection(path)
        copy.close(downgrade=True)

    def copy(self, path):
        """A copy as it lies on disk."""
        self._copy_to(path)

    def _copy_to(self, path):
        self.close()
        shutil.copy(self.path, path)
        self.col = Collection(self.path)

    def damage(self):
        """What the database check of this release finds, tried on a copy."""
        folder = tempfile.mkdtemp()
        try:
            path = str(Path(folder, "copy.anki2"))
            self._copy_to(path)
            copy = Collection(path)
            if hasattr(copy.db, "begin"):
                copy.save(trx=False)
            problems = first(copy, "_backend", "backend").check_database()
            if hasattr(copy.db, "begin"):
                copy.db.begin()
            copy.close()
            return [problem for problem in problems if not problem.startswith(BENIGN)]
        finally:
            shutil.rmtree(folder)

    def check_database(self):
        """Runs the database check on the collection itself, mending what it finds."""
        if hasattr(self.col.db, "begin"):
            self.col.save(trx=False)
        problems = list(self.backend.check_database())
        if hasattr(self.col.db, "begin"):
            self.col.db.begin()
        return problems

    def sql(self, statement, *values):
        rows = self.col.db.all(statement, *values)
        self._commit()
        return rows

    def header(self):
        names = ["crt", "mod", "scm", "ver", "usn", "ls"]
        row = self.col.db.first("select crt, mod, scm, ver, usn, ls from col")
        return dict(zip(names, row, strict=False))

    def stamp(self, mod):
        """Sets the collection's own modification time, in ms."""
        self.col.db.execute("update col set mod = ?", mod)
        self._commit()

    # --- syncing -----------------------------------------------------------------------

    def login(self, name, password, endpoint):
        self.point(endpoint)
        if hasattr(sync_pb, "SyncLoginRequest") and "endpoint" in (
            sync_pb.SyncLoginRequest.DESCRIPTOR.fields_by_name
        ):
            self.auth = self.col.sync_login(name, password, endpoint)
        else:
            self.auth = self.backend.sync_login(username=name, password=password)
        self.point(endpoint)
        return self.auth.hkey

    def use_key(self, key, endpoint):
        """Syncs with a host key from elsewhere instead of logging in."""
        self.auth = sync_pb.SyncAuth(hkey=key)
        self.point(endpoint)

    def point(self, endpoint):
        """Sends later requests to `endpoint`, a base URL with its final slash."""
        self.endpoint = endpoint
        # Up to 2.1.56: the text before each method, from the environment.
        os.environ["SYNC_ENDPOINT"] = endpoint + "sync/"
        os.environ["SYNC_ENDPOINT_MEDIA"] = endpoint + "msync/"
        fields = sync_pb.SyncAuth.DESCRIPTOR.fields_by_name
        if self.auth is not None and "endpoint" in fields:
            self.auth.endpoint = endpoint
            if "io_timeout_secs" in fields:
                self.auth.io_timeout_secs = 60

    def _outside_transaction(self, work):
        old = hasattr(self.col.db, "begin")
        if old:
            self.col.save(trx=False)
        try:
            return work()
        finally:
            if old:
                self.col.db.begin()
            self.col.models._clear_cache()

    def sync(self, media=False):
        """A normal sync; says what is still required: none, full, upload or download."""
        if self._takes_media_flag():
            out = self._outside_transaction(lambda: self.col.sync_collection(self.auth, media))
            if media and ACTIONS[out.required] == "none":
                self._await_media()
        else:
            out = self._outside_transaction(lambda: self.backend.sync_collection(self.auth))
            if media:
                self.sync_media()
        first(self.col, "_load_scheduler", "_loadScheduler")()
        return {
            "action": ACTIONS[out.required],
            "message": out.server_message,
            "new_endpoint": getattr(out, "new_endpoint", ""),
        }

    def _takes_media_flag(self):
        return hasattr(self.backend, "media_sync_status")

    def sync_status(self):
        return int(self._outside_transaction(lambda: self.backend.sync_status(self.auth)).required)

    def upload(self):
        self._full(upload=True)

    def download(self):
        self._full(upload=False)

    def _full(self, upload):
        self.col.close_for_full_sync()
        try:
            if hasattr(self.backend, "full_upload_or_download"):
                self.col.full_upload_or_download(auth=self.auth, server_usn=None, upload=upload)
            elif upload:
                self.backend.full_upload(self.auth)
            else:
                self.backend.full_download(self.auth)
        finally:
            self.col.reopen(after_full_sync=True)
            first(self.col, "_load_scheduler", "_loadScheduler")()

    def sync_media(self):
        self.backend.sync_media(self.auth)
        self._await_media()

    def _await_media(self):
        """From 23.10 on media are synced in the background; the status raises its error."""
        if hasattr(self.backend, "media_sync_status"):
            while self.backend.media_sync_status().active:
                time.sleep(0.005)

    # --- notes and cards ---------------------------------------------------------------

    def _notetype(self, name):
        found = first(self.col.models, "by_name", "byName")(name)
        if found is None:
            raise KeyError(f"no notetype {name!r}")
        return found

    def add_note(self, fields, notetype="Basic", deck="Default", tags=()):
        kind = self._notetype(notetype)
        if hasattr(self.col, "new_note"):
            note = self.col.new_note(kind)
        else:
            note = Note(self.col, model=kind)
        note.fields = list(fields) + [""] * (len(note.fields) - len(fields))
        note.tags = list(tags)
        self.col.add_note(note, self.add_deck(deck))
        self._commit()
        return note.id

    def _note(self, note_id):
        return first(self.col, "get_note", "getNote")(note_id)

    def _save_note(self, note):
        if hasattr(self.col, "update_note"):
            self.col.update_note(note)
        else:
            note.flush()
        self._commit()

    def edit_note(self, note, fields=None, tags=None):
        changed = self._note(note)
        if fields is not None:
            changed.fields = list(fields) + changed.fields[len(fields) :]
        if tags is not None:
            changed.tags = list(tags)
        self._save_note(changed)
        return self.note(note)

    def note(self, note):
        found = self._note(note)
        return {
            "id": found.id,
            "guid": found.guid,
            "notetype": found.mid,
            "mod": found.mod,
            "tags": list(found.tags),
            "fields": list(found.fields),
            "cards": self.cards_of(note),
        }

    def delete_notes(self, notes):
        self.col.remove_notes(notes)
        self._commit()

    def delete_cards(self, cards):
        """Removes cards, and notes that are left without any."""
        self.col.remove_cards_and_orphaned_notes(cards)
        self._commit()

    def cards_of(self, note):
        return list(self.col.db.list("select id from cards where nid = ? order by ord", note))

    def notes(self):
        return list(self.col.db.list("select id from notes order by id"))

    def cards(self):
        return list(self.col.db.list("select id from cards order by id"))

    def card(self, card):
        names = [
            "id",
            "nid",
            "did",
            "ord",
            "mod",
            "type",
            "queue",
            "due",
            "ivl",
            "factor",
            "reps",
            "lapses",
            "left",
            "odue",
            "odid",
            "flags",
            "data",
        ]
        row = self.col.db.first(
            "select id, nid, did, ord, mod, type, queue, due, ivl, factor, reps, lapses, left,"
            " odue, odid, flags, data from cards where id = ?",
            card,
        )
        return dict(zip(names, row, strict=False)) if row else None

    def answer(self, card, ease=3):
        """A review; returns the card afterwards."""
        answered = first(self.col, "get_card", "getCard")(card)
        first(answered, "start_timer", "startTimer")()
        first(self.col.sched, "reset")()
        self.col.sched.answerCard(answered, ease)
        self._commit()
        return self.card(card)

    def flag(self, cards, flag):
        first(self.col, "set_user_flag_for_cards", "setUserFlag")(flag, cards)
        self._commit()

    def suspend(self, cards):
        self.col.sched.suspend_cards(cards)
        self._commit()

    def unsuspend(self, cards):
        self.col.sched.unsuspend_cards(cards)
        self._commit()

    def bury(self, cards):
        self.col.sched.bury_cards(cards)
        self._commit()

    def move(self, cards, deck):
        self.col.set_deck(cards, self.add_deck(deck))
        self._commit()

    def make_due(self, cards, days=0):
        """Turns cards into reviews that are due."""
        if hasattr(self.col.sched, "set_due_date"):
            self.col.sched.set_due_date(cards, str(days))
        else:
            self.col.sched.schedule_cards_as_reviews(cards, max(days, 1), max(days, 1))
        self._commit()

    def set_custom_data(self, card, text):
        changed = first(self.col, "get_card", "getCard")(card)
        if hasattr(changed, "custom_data"):
            changed.custom_data = text
        else:
            changed.data = json.dumps({"cd": text})
        if hasattr(self.col, "update_card"):
            self.col.update_card(changed)
        else:
            changed.flush()
        self._commit()

    # --- decks and options -------------------------------------------------------------

    def add_deck(self, name):
        deck = self.col.decks.id(name)
        self._commit()
        return deck

    def deck(self, name):
        found = first(self.col.decks, "by_name", "byName")(name)
        return dict(found) if found else None

    def decks(self):
        return {deck["name"]: deck["id"] for deck in self.col.decks.all()}

    def edit_deck(self, deck, changes):
        changed = self.col.decks.get(deck, default=False)
        changed.update(changes)
        self.col.decks.save(changed)
        self._commit()
        return self.col.decks.get(deck)

    def rename_deck(self, deck, name):
        self.col.decks.rename(self.col.decks.get(deck), name)
        self._commit()

    def delete_deck(self, deck):
        if hasattr(self.col.decks, "remove"):
            self.col.decks.remove([deck])
        else:
            self.col.decks.rem(deck, cardsToo=True)
        self._commit()

    def add_filtered(self, name, search, limit=100, order=0, resched=True):
        deck = self.col.decks.new_filtered(name)
        changed = self.col.decks.get(deck)
        changed["terms"] = [[search, limit, order]]
        changed["resched"] = resched
        self.col.decks.save(changed)
        self.col.sched.rebuild_filtered_deck(deck)
        self._commit()
        return deck

    def rebuild_filtered(self, deck):
        self.col.sched.rebuild_filtered_deck(deck)
        self._commit()

    def empty_filtered(self, deck):
        self.col.sched.empty_filtered_deck(deck)
        self._commit()

    def add_options(self, name, changes=None):
        """A new preset; `changes` are merged into its legacy form."""
        options = self.col.decks.add_config(name)
        self._commit()
        return self.edit_options(options["id"], changes or {})["id"]

    def edit_options(self, options, changes):
        changed = self.col.decks.get_config(options)
        _merge(changed, changes)
        self.col.decks.update_config(changed)
        self._commit()
        return self.col.decks.get_config(options)

    # --- notetypes, tags, configuration ------------------------------------------------

    def add_notetype(self, name, fields, templates, cloze=False, changes=None):
        """`templates` are (name, front, back)."""
        models = self.col.models
        kind = models.new(name)
        kind["type"] = 1 if cloze else 0
        kind["flds"], kind["tmpls"] = [], []
        for field in fields:
            first(models, "add_field", "addField")(
                kind, first(models, "new_field", "newField")(field)
            )
        for title, front, back in templates:
            template = first(models, "new_template", "newTemplate")(title)
            template["qfmt"], template["afmt"] = front, back
            first(models, "add_template", "addTemplate")(kind, template)
        _merge(kind, changes or {})
        models.add(kind)
        self._commit()
        return self._notetype(kind["name"])["id"]

    def edit_notetype(self, notetype, changes):
        """`changes` are merged into the legacy form; lists element by element."""
        changed = self.col.models.get(notetype)
        _merge(changed, changes)
        if hasattr(self.col.models, "update_dict"):
            self.col.models.update_dict(changed)
        else:
            self.col.models.save(changed)
        self._commit()
        return self.col.models.get(notetype)

    def add_field(self, notetype, name):
        """Changes the layout, hence the schema: the next sync must be a full one."""
        changed = self.col.models.get(notetype)
        models = self.col.models
        first(models, "add_field", "addField")(
            changed, first(models, "new_field", "newField")(name)
        )
        first(models, "update_dict", "save")(changed)
        self._commit()

    def notetypes(self):
        return {kind["name"]: kind["id"] for kind in self.col.models.all()}

    def delete_notetype(self, notetype):
        """Changes the schema."""
        self.col.models.remove(notetype)
        self._commit()

    def tag(self, notes, tags):
        first(self.col.tags, "bulk_add", "bulkAdd")(notes, tags)
        self._commit()

    def untag(self, notes, tags):
        first(self.col.tags, "bulk_remove", "bulkRem")(notes, tags)
        self._commit()

    def rename_tag(self, old, new):
        self.col.tags.rename(old, new)
        self._commit()

    def collapse_tag(self, tag, collapsed):
        self.col.tags.set_collapsed(tag, collapsed)
        self._commit()

    def tags(self):
        return sorted(self.col.tags.all())

    def set_config(self, key, value):
        self.col.set_config(key, value)
        self._commit()

    def get_config(self, key):
        return self.col.get_config(key)

    def add_image_occlusion(self, image, occlusions, header="", back=""):
        """`image` is a path; from 23.10 on."""
        self.col.add_image_occlusion_notetype()
        kind = next(k for k in self.col.models.all() if k.get("originalStockKind") == 6)
        self.col.add_image_occlusion_note(
            notetype_id=kind["id"],
            image_path=image,
            occlusions=occlusions,
            header=header,
            back_extra=back,
            tags=[],
        )
        self._commit()
        return self.col.db.scalar("select max(id) from notes")

    # --- media -------------------------------------------------------------------------

    def _media_folder(self):
        return self.col.media.dir()

    def add_media(self, name, data):
        """Returns the name that the engine gave it; `data` is base64."""
        return self.backend.add_media_file(desired_name=name, data=base64.b64decode(data))

    def delete_media(self, names):
        self.backend.trash_media_files(names)

    def replace_media(self, name, data):
        """As when the user overwrites a file outside Anki."""
        path = Path(self._media_folder(), name)
        path.unlink()
        path.write_bytes(base64.b64decode(data))
        # The engine looks at the folder's time, then at each file's, both in whole seconds.
        later = time.time() + 2
        os.utime(path, (later, later))
        os.utime(self._media_folder(), (later, later))

    def media(self):
        """Name and SHA-1 of each file in the folder."""
        return {
            file.name: hashlib.sha1(file.read_bytes()).hexdigest()
            for file in Path(self._media_folder()).iterdir()
        }

    # --- packages ----------------------------------------------------------------------

    def export_package(self, path, media=True, legacy=False):
        """The whole collection as a .colpkg; up to 2.1.49 there is one form only."""
        if hasattr(self.col, "export_collection_package"):
            if hasattr(self.col.db, "begin"):
                self.col.save()
            self.col.export_collection_package(path, include_media=media, legacy=legacy)
        else:
            from anki.exporting import AnkiCollectionPackageExporter

            exporter = AnkiCollectionPackageExporter(self.col)
            exporter.includeMedia = media
            exporter.exportInto(path)
        self.col = Collection(self.path)

    def import_package(self, path):
        """Replaces the collection by that of a .colpkg, and adds its media."""
        backend, folder = self.backend, self._media_folder()
        self.close()
        if hasattr(backend, "import_collection_package"):
            given = {
                "col_path": self.path,
                "backup_path": path,
                "media_folder": folder,
                "media_db": str(Path(self.path).with_suffix(".media.db2")),
            }
            fields = inspect.signature(backend.import_collection_package).parameters
            backend.import_collection_package(
                **{name: value for name, value in given.items() if name in fields}
            )
        else:
            _unpack_as_window(path, self.path, folder)
        self.col = Collection(self.path)

    # --- the canonical form ------------------------------------------------------------

    def dump(self, path):
        """Everything in the collection at `path`, for comparison across devices.

        Runs in the newest release, so that one engine's reading is the judge of all.
        Leaves out what belongs to one device or one sync: usn, graves, `ls`, and the
        collection's `mod`, which every sync sets anew.
        """
        col = Collection(path)
        try:
            return _canonical(col)
        finally:
            col.close()


def _unpack_as_window(package, collection, media_folder):
    """What the window of 2.1.49 and before does with a package; its engine has no part in it."""
    with zipfile.ZipFile(package) as archive:
        newer = "collection.anki21"
        member = newer if newer in archive.namelist() else "collection.anki2"
        Path(collection).write_bytes(archive.read(member))
        for number, name in json.loads(archive.read("media").decode("utf8")).items():
            target = Path(media_folder, unicodedata.normalize("NFC", name))
            target.write_bytes(archive.read(number))


def _canonical(col):
    content = {}
    crt, scm = col.db.first("select crt, scm from col")
    content["col"] = {"crt": crt, "scm": scm}
    for table, columns in (
        ("notes", "id guid mid mod tags flds sfld csum flags data"),
        (
            "cards",
            "id nid did ord mod type queue due ivl factor reps lapses left odue odid flags data",
        ),
        ("revlog", "id cid ease ivl lastIvl factor time type"),
    ):
        names = columns.split()
        rows = col.db.all("select {} from {}".format(", ".join(names), table))
        content[table] = {str(row[0]): dict(zip(names, row, strict=False)) for row in rows}
    for card in content["cards"].values():
        card["data"] = json.loads(card["data"] or "{}")
    for name, things in (
        ("decks", col.decks.all()),
        ("options", col.decks.all_config()),
        ("notetypes", col.models.all()),
    ):
        content[name] = {str(thing["id"]): _without_usn(thing) for thing in things}
    content["tags"] = sorted(col.tags.all())
    content["config"] = json.loads(col._backend.get_all_config())
    return content


def _without_usn(thing):
    return {key: value for key, value in thing.items() if key != "usn"}


def _merge(into, changes):
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif (
            isinstance(value, list)
            and isinstance(into.get(key), list)
            and value
            and all(isinstance(element, dict) for element in value)
        ):
            for old, new in zip(into[key], value, strict=False):
                _merge(old, new)
        else:
            into[key] = value


def main():
    client = Client()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = getattr(client, request["verb"])(
                *request.get("args", ()), **request.get("kwargs", {})
            )
            answer = {"ok": result}
        except Exception as error:  # noqa: BLE001 - told to the test
            kind = getattr(error, "kind", None)
            answer = {
                "error": {
                    "type": type(error).__name__,
                    "text": str(error) or repr(error),
                    "kind": str(kind() if callable(kind) else kind),
                    "trace": traceback.format_exc(),
                }
            }
        ANSWERS.write(json.dumps(answer) + "\n")
        ANSWERS.flush()


if __name__ == "__main__":
    main()
