# SPDX-License-Identifier: AGPL-3.0-or-later
"""Containers that bytes travel in: compressed streams and zip files, written and read.

Whatever is read comes from outside and is read within bounds that the caller states:
`compression` unpacks piece by piece, `zip_reader` knows every size before a byte is unpacked.
`zip_writer` writes zips of any size; the numbers that both need stand in `zip_format`. What is
in them is left to others: media of a sync to `wire`, packages to `backups`.
"""
