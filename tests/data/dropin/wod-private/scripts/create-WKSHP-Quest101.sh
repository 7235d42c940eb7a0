#!/bin/bash
source $WODBEDIR/scripts/wod.sh

echo "quest w=$w ws=$ws mode=$MODEWS action=$action user=$USER"
wod_wait_till_clean $QUESTBEFORE
echo "quest ldap=`wod_get_ldap_status $wid` varpass=`wod_get_varpass_status $wid` compile=`wod_get_compile_status $wid`"
