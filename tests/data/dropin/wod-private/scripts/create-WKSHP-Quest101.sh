#!/bin/bash
source $WODBEDIR/scripts/wod.sh

echo "quest w=$w ws=$ws mode=$MODEWS action=$action user=$USER"
for name in action stdid dbstdid stddir w ws wid userid MODEWS randompw accessToken WODAPIDBEXTURL LOGNAME USER; do
    [ -n "${!name}" ] || echo "quest misses $name"
done
wod_wait_till_clean $QUESTBEFORE
echo "quest ldap=`wod_get_ldap_status $wid` varpass=`wod_get_varpass_status $wid` compile=`wod_get_compile_status $wid`"
