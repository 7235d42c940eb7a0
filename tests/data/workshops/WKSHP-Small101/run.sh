#!/bin/bash
echo "{{ STDID }}" \
  "$HOME"
