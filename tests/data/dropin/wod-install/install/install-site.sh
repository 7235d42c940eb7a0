#!/bin/bash
# Site installation, run once.
