#!/bin/bash
# Make a PDF of every notebook in this folder, or of those named on the command line.
set -u
cd "$(dirname "$0")" || exit 1
if ! command -v jupyter >/dev/null; then
    echo "jupyter is not installed here, so no PDF can be made" >&2
    exit 69
fi
if [ $# -eq 0 ]; then
    set -- ./*.ipynb
fi
failed=0
for notebook in "$@"; do
    [ -e "$notebook" ] || continue
    echo "Making a PDF of $notebook"
    jupyter nbconvert --to webpdf --allow-chromium-download "$notebook" ||
        jupyter nbconvert --to pdf "$notebook" ||
        failed=1
done
exit "$failed"
