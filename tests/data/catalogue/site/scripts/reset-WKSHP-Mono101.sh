#!/bin/bash
# Made by wodmail of conf/containers/WKSHP-Mono101.yml: change that file, then say wodmail deliver.
true
