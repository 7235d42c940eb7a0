#!/bin/bash
. /etc/wod.sh
echo "quest reset $stdid"
