"""What the tests of calls-batch-create share."""

from calls.models import CallBatch, CampaignContact

INVALID_PHONE_NUMBERS = [
    *("12125550100", "+1 212 555 0100", " +12125550100", "+12125550100 ", "+12125550100\n", "+0125550100", "+123456"),
    *("+1234567890123456", "+1212555O100", "+\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668", "tel:+12125550100"),
]


def nothing_is_stored():
    return not CallBatch.objects.exists() and not CampaignContact.objects.exists()
