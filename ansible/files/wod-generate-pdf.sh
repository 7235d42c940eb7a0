#!/bin/bash
# Make a PDF of every notebook in this folder; --word makes Word documents.
set -u
cd "$(dirname "$0")" || exit 1
if ! command -v wod-generate-pdf >/dev/null; then
    echo "wod-generate-pdf is not installed here; ask the operator, or use File > Save and Export in JupyterLab" >&2
    exit 69
fi
exec wod-generate-pdf "$@" .
